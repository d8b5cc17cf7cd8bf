"""Interrupted runs: whatever kills them, the same command again ends where an uninterrupted one does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch

from alphabar.base.errors import CheckpointError
from alphabar.weights import checkpoint
from tiny import SETTINGS, npz, same

STEPS = 40
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
SCHEDULE = ["run.save_every=10", "run.preview_every=20"]


def arguments(out: Path, steps: int = STEPS) -> list[str]:
    data = out.parent.parent / "tiny.npz"
    return ["train", str(data), "--out", str(out), "--steps", str(steps), *SETTINGS, *SCHEDULE]


def start(out: Path, steps: int = STEPS) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alphabar", *arguments(out, steps)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} never appeared")


def metrics(run: Path) -> list[dict[str, object]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def check_equal(run: Path, whole: Path) -> None:
    """Both runs ended in the same state."""
    last = f"step-{STEPS:09d}"
    for name in ("ema", "net", "optimizer"):
        file = f"{last}/{name}.safetensors"
        same(safetensors.torch.load_file(run / file), safetensors.torch.load_file(whole / file))
    checkpoint.verify(run / last)
    assert metrics(run) == metrics(whole)
    preview = f"previews/{last}.png"
    assert (run / preview).read_bytes() == (whole / preview).read_bytes()
    assert json.loads((run / "run.json").read_text()) == json.loads((whole / "run.json").read_text())
    left = [p for p in run.rglob("*") if ".tmp-" in p.name]
    assert not left, "what a killed process left behind was never cleared away"


def check_sound(run: Path) -> None:
    """Every step that has its name is whole; nothing is half there."""
    for step in checkpoint.steps(run):
        checkpoint.verify(step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody interrupts."""
    root = tmp_path_factory.mktemp("resume")
    npz(root / "tiny.npz")
    out = root / "whole" / "run"
    finish(start(out))
    return out


@pytest.fixture
def out(whole, request) -> Path:
    return whole.parent.parent / request.node.name.replace("[", "-").strip("]") / "run"


def test_the_whole_run_is_as_promised(whole):
    assert [p.name for p in checkpoint.steps(whole)] == ["step-000000040", "step-000000030"]
    assert sorted(p.name for p in (whole / "previews").iterdir()) == ["step-000000020.png", "step-000000040.png"]
    found = metrics(whole)
    assert [m["step"] for m in found if "loss" in m] == list(range(1, STEPS + 1))
    assert [m["step"] for m in found if "held_out_loss" in m] == [20, 40]
    status = json.loads((whole / "run.json").read_text())
    assert status["state"] == "finished" and status["step"] == STEPS and status["exit_code"] == 0


def test_forty_steps_equal_twenty_a_kill_and_twenty_more(whole, out):
    first = start(out, STEPS)
    wait_for(out / "step-000000020", first)
    first.kill()
    finish(first, -signal.SIGKILL)
    check_sound(out)
    said, _ = finish(start(out))
    assert "resuming" in said
    check_equal(out, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_signal_saves_and_the_same_command_goes_on(whole, out, number, code):
    process = start(out)
    wait_for(out / "step-000000010", process)
    process.send_signal(number)
    _, err = finish(process, code)
    lines = err.splitlines()
    assert len(lines) == 1 and "stopped at step" in lines[0] and "Traceback" not in err
    newest = checkpoint.steps(out)[0]
    step = int(newest.name[5:])
    assert 10 <= step < STEPS and f"step {step}" in lines[0]
    checkpoint.verify(newest)
    status = json.loads((out / "run.json").read_text())
    assert status["state"] == "preempted" and status["exit_code"] == code and status["step"] == step
    if number == signal.SIGTERM:  # to go on is the same after both
        finish(start(out))
        check_equal(out, whole)


# Starts one process per command, which imports nothing twice, and kills each in its own way.
FORK = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
import alphabar.cli.train
from alphabar.base import storage
from alphabar.cli.main import main

arguments, plan = json.loads(sys.argv[1]), json.loads(sys.argv[2])

def die_at(number):
    count = 0
    def wrap(real, half):
        def operation(*given):
            nonlocal count
            count += 1
            if count == number:
                if half:
                    real(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)
        return operation
    for name in ("write_bytes", "sync_file", "sync_directory", "rename", "remove_tree", "append_line"):
        setattr(storage, name, wrap(getattr(storage, name), name in ("write_bytes", "append_line")))

for kind, value in plan:
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        if kind == "operation":
            die_at(value)
        os._exit(main(arguments))
    if kind == "after":
        time.sleep(value)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
    sys.stdin.readline()
"""


def killed(out: Path, plan: list[tuple[str, float]]) -> list[int]:
    """Run the command once for each entry of ``plan``, looking at what is on the disk after each."""
    command = [sys.executable, "-c", FORK, json.dumps(arguments(out)), json.dumps(plan)]
    codes = []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True) as process:
        for _ in plan:
            line = process.stdout.readline()
            assert line, "the runner itself died"
            codes.append(int(line))
            check_sound(out)
            process.stdin.write("\n")
            process.stdin.flush()
    return codes


def test_kills_at_random_moments(whole, out):
    rng = random.Random(5)
    plan = [("after", round(rng.uniform(0.1, 1.5), 2)) for _ in range(5)]
    codes = killed(out, [*plan, ("none", 0)])
    assert codes[-1] == 0 and set(codes) <= {0, -signal.SIGKILL} and -signal.SIGKILL in codes
    check_equal(out, whole)


def test_kills_at_operations_on_the_disk(whole, out):
    """Each process dies at its n-th write, sync, rename or removal; together they get to the end."""
    plan = [("operation", n) for n in (2, 19, 24, 31, 34, 36, 37)]
    codes = killed(out, [*plan, ("none", 0)])
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL}
    check_equal(out, whole)


def test_a_damaged_last_checkpoint_is_made_again(whole, out):
    """The run falls back to the step before, and must not take the damaged folder for the one it has to write."""
    shutil.copytree(whole, out)
    weights = out / "step-000000040" / "ema.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError):
        checkpoint.verify(out / "step-000000040")
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
    command = [sys.executable, "-c", FORK, json.dumps(arguments(out)), json.dumps([("none", 0)])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, input="\n")
    assert done.stdout == "0\n"
    warned = [line for line in done.stderr.splitlines() if line]
    assert len(warned) == 1 and warned[0].startswith("warning: ") and "step-000000040" in warned[0]
    check_equal(out, whole)
