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
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch

from alphabar.weights import checkpoint
from tiny import SETTINGS, npz, same

STEPS = 40
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
SCHEDULE = ["run.save_every=10", "run.preview_every=20"]


def arguments(out: Path, steps: int = STEPS) -> list[str]:
    data = out.parent.parent / "tiny.npz"
    return ["train", str(data), "--out", str(out), "--steps", str(steps), *SETTINGS, *SCHEDULE]


# Imports once, then forks a process for each command it is told, and kills that in the way it is told.
SERVER = """
import json, os, signal, sys, tempfile, time
import torch, torch._dynamo
import alphabar.cli.train
from alphabar.base import storage
from alphabar.cli.main import main

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
    for name in ("write_bytes", "sync_file", "sync_directory", "rename", "exchange", "remove", "append_line"):
        setattr(storage, name, wrap(getattr(storage, name), name in ("write_bytes", "append_line")))

for line in sys.stdin:
    arguments, kind, value = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            sys.stdout, sys.stderr = out, err
            if kind == "operation":
                die_at(value)
            code = main(arguments)
            out.flush()
            err.flush()
            os._exit(code)
        if kind == "after":
            time.sleep(value)
            os.kill(child, signal.SIGKILL)
        if kind == "when":
            number, path = value
            while not os.path.exists(path):
                time.sleep(0.005)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(status), out.read(), err.read()]), flush=True)
"""


class Server:
    """Runs ``alphabar`` in processes of their own, without importing torch for each."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", SERVER]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, out: Path, kind: str = "", value: object = None) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of one training session in ``out``, after which every step there is whole."""
        print(json.dumps([arguments(out), kind, value]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the server itself died"
        for step in checkpoint.steps(out) if kind else []:
            checkpoint.verify(step)
        return tuple(json.loads(line))


@pytest.fixture(scope="module")
def session() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.stdin.close()
    server.process.wait(60)
    server.process.stdout.close()


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


def check_tidy(run: Path) -> None:
    assert [p.name for p in run.rglob("*") if ".tmp-" in p.name] == [], "a killed process's leftovers are still there"


@pytest.fixture(scope="module")
def whole(session, tmp_path_factory) -> Path:
    """A run that nobody interrupts."""
    root = tmp_path_factory.mktemp("resume")
    npz(root / "tiny.npz")
    out = root / "whole" / "run"
    code, _, err = session(out)
    assert code == 0, err
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
    """Two real processes, as a user starts them."""
    command = [sys.executable, "-m", "alphabar", *arguments(out)]
    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (out / "step-000000020").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 0 and "resuming" in second.stdout, second.stderr
    check_equal(out, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_signal_saves_and_the_same_command_goes_on(session, whole, out, number, code):
    found, _, err = session(out, "when", [number, str(out / "step-000000010")])
    assert found == code, err
    lines = err.splitlines()
    assert len(lines) == 1 and "stopped at step" in lines[0] and "Traceback" not in err
    newest = checkpoint.steps(out)[0]
    step = int(newest.name[5:])
    assert 10 <= step < STEPS and f"step {step}" in lines[0]
    status = json.loads((out / "run.json").read_text())
    assert status["state"] == "preempted" and status["exit_code"] == code and status["step"] == step
    assert session(out)[0] == 0
    check_equal(out, whole)


def test_kills_at_random_moments(session, whole, out):
    rng = random.Random(5)
    codes = [session(out, "after", round(rng.uniform(0.05, 1.0), 2))[0] for _ in range(5)]
    assert set(codes) <= {0, -signal.SIGKILL} and -signal.SIGKILL in codes
    assert session(out)[0] == 0
    check_equal(out, whole)


def test_kills_at_operations_on_the_disk(session, whole, out):
    """Each process dies at its n-th write, sync, rename or removal; together they get to the end."""
    for number in (2, 19, 24, 31, 34, 36, 37):
        assert session(out, "operation", number)[0] == -signal.SIGKILL
    assert session(out)[0] == 0
    check_equal(out, whole)
    check_tidy(out)


def damage(step: Path) -> None:
    data = bytearray((step / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (step / "ema.safetensors").write_bytes(bytes(data))


def test_a_damaged_last_checkpoint_is_made_again(session, whole, out):
    """The run falls back to the step before, and must not take the damaged folder for the one it has to write."""
    shutil.copytree(whole, out)
    damage(out / "step-000000040")
    code, _, err = session(out)
    assert code == 0
    assert len(err.splitlines()) == 1 and err.startswith("warning: ") and "step-000000040" in err
    check_equal(out, whole)


def test_a_run_without_an_intact_checkpoint_is_not_started_over(session, whole, out):
    shutil.copytree(whole, out)
    for step in checkpoint.steps(out):
        damage(step)
    code, _, err = session(out)
    assert code == 4
    assert err.splitlines()[-1].startswith("error: ") and "--fresh" in err
    assert len(checkpoint.steps(out)) == 2 and len(metrics(out)) == len(metrics(whole))
