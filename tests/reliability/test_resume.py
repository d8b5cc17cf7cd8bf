"""The same command again ends where an uninterrupted run does, as a user sees it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alphabar.weights import checkpoint
from reliability.runner import Outcome, differences, metrics


@pytest.fixture
def run(short, request) -> Path:
    return short.folder(request.node.name)


@pytest.fixture
def copy(short, run) -> Path:
    return Path(shutil.copytree(short.whole, run))


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())


def test_the_whole_run_is_as_promised(short):
    whole = short.whole
    assert [p.name for p in checkpoint.steps(whole)] == ["step-000000020", "step-000000015"]
    assert sorted(p.name for p in (whole / "previews").iterdir()) == ["step-000000010.png", "step-000000020.png"]
    found = metrics(whole / "metrics.jsonl")
    assert [m["step"] for m in found if "loss" in m] == list(range(1, 21))
    assert [m["step"] for m in found if "held_out_loss" in m] == [10, 20]
    assert status(whole) == {"state": "finished", "step": 20, "steps": 20, "saved": 20, "skipped": 0, "exit_code": 0}


def test_the_comparison_sees_what_differs(short, copy):
    """What all tests here rest on."""
    assert differences(copy, short.whole) == []
    with (copy / "metrics.jsonl").open("a") as log:
        log.write('{"step": 21, "seconds": 1.0}\n')
    (copy / "previews" / "step-000000010.png").unlink()
    (copy / ".tmp-x").touch()
    data = bytearray((copy / "step-000000020" / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "step-000000020" / "optimizer.safetensors").write_bytes(data)
    found = {".tmp-x", "metrics.jsonl", "previews/step-000000010.png", "step-000000020/optimizer.safetensors"}
    assert set(differences(copy, short.whole)) == found


def test_two_real_processes(short, run):
    """Started as a user starts them: the first is killed, the second goes on."""
    command = [sys.executable, "-m", "alphabar", *short.train(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run / "step-000000005").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 0 and "resuming" in second.stdout, second.stderr
    last = "step-000000020/state.json"
    assert json.loads((run / last).read_text()) == json.loads((short.whole / last).read_text())
    found = [m["loss"] for m in metrics(run / "metrics.jsonl") if "loss" in m]
    assert found == [m["loss"] for m in metrics(short.whole / "metrics.jsonl") if "loss" in m]


def damage(step: Path) -> None:
    data = bytearray((step / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (step / "ema.safetensors").write_bytes(data)


def test_a_damaged_last_checkpoint_is_made_again(short, copy):
    """The run falls back to the step before, and must not take the damaged folder for the one it has to write."""
    damage(copy / "step-000000020")
    outcome = Outcome()
    ended = short.forks(short.train(copy))
    assert ended.code == 0
    assert len(ended.err.splitlines()) == 1 and ended.err.startswith("warning: ") and "step-000000020" in ended.err
    assert differences(copy, short.whole) == [] and (copy / "damaged-step-000000020-1").is_dir()
    short.finish(copy, outcome, "once more")
    assert not outcome.failures


def test_a_run_without_an_intact_checkpoint_is_not_started_over(short, copy):
    for step in checkpoint.steps(copy):
        damage(step)
    ended = short.forks(short.train(copy))
    assert ended.code == 4
    assert ended.err.splitlines()[-1].startswith("error: ") and "--fresh" in ended.err
    assert len(checkpoint.steps(copy)) == 2 and differences(copy, short.whole) != []
    assert metrics(copy / "metrics.jsonl") == metrics(short.whole / "metrics.jsonl")


def test_a_run_that_died_before_it_said_finished_says_so_later(short, copy):
    facts = status(copy) | {"state": "running", "exit_code": None}
    (copy / "run.json").write_text(json.dumps(facts))
    said = short.forks(["inspect", str(copy)]).out
    assert "ended without a word" in said.splitlines()[0] and "the same command continues it" in said
    ended = short.forks(short.train(copy))
    assert ended.code == 0 and "has all 20 steps" in ended.out
    assert differences(copy, short.whole) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ('{"state": "preempted", "step": 7, "steps": 20, "exit_code": 75}', "preempted at step 7 of 20, exit code 75"),
        ('{"state": "failed", "step": 7, "steps": 20, "exit_code": 5}', "failed at step 7 of 20, exit code 5"),
        ('{"state": "finished", "step": 20, "steps": 20, "exit_code": 0}', "finished, step 20 of 20"),
        ('{"state": "run', "run.json cannot be read"),
        ("[]", "run.json cannot be read"),
    ],
)
def test_inspect_says_how_a_run_stands(short, place, facts, words):
    folder = place / f"state-{abs(hash(facts))}"
    shutil.copytree(short.whole, folder)
    (folder / "run.json").write_text(facts)
    ended = short.forks(["inspect", str(folder)])
    assert ended.code == 0 and words in ended.out.splitlines()[0]
