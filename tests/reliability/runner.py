"""Real commands in forked processes, and what the run folders that they leave must be equal in."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.base.errors import CheckpointError
from alphabar.weights import checkpoint
from tiny import SETTINGS, npz

__all__ = ["KILLED", "Ended", "Forks", "Outcome", "Toy", "differences", "newest", "unloadable"]

KILLED = -signal.SIGKILL
TESTS = Path(__file__).resolve().parents[1]

# What two runs that are equal may differ in.
EXCLUDED_FILES = {".lock"}  # process id and time of day
EXCLUDED_METRICS = {"seconds"}  # how long a step took


@dataclass
class Outcome:
    """What an experiment found: how often it tried, and in words what went wrong."""

    trials: int = 0
    failures: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    slowest: float = 0.0

    def check(self, fine: bool, what: str) -> None:
        """Note a failure unless ``fine``."""
        if not fine:
            self.failures.append(what)


@dataclass(frozen=True)
class Ended:
    """A command that ended: exit code (−9 if killed), what it printed, and its seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Forks:
    """Runs ``alphabar`` in processes of their own without importing torch for each."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": path}
        command = [sys.executable, "-m", "reliability.server"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout.readline() == "ready\n", "the server did not start"

    def __call__(self, arguments: Sequence[str], *faults: dict[str, Any], signals: Sequence[Any] = ()) -> Ended:
        """One command to its end."""
        return self.together([{"arguments": list(arguments), "faults": faults, "signals": list(signals)}])[0]

    def together(self, jobs: Sequence[dict[str, Any]]) -> list[Ended]:
        """Several commands at once."""
        print(json.dumps(jobs), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, "the server itself died"
        return [Ended(*result) for result in json.loads(line)]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class Toy:
    """A small run: what starts it, and one that nobody disturbed to compare with."""

    def __init__(self, forks: Forks, root: Path, steps: int = 60, save: int = 5, preview: int = 20) -> None:
        self.forks, self.root, self.steps, self.save, self.preview = forks, root, steps, save, preview
        self.data = npz(root / "tiny.npz")
        self.whole = root / "whole" / "run"
        self.whole.parent.mkdir()
        ended = forks(self.train(self.whole))
        assert ended.code == 0, ended.err
        self.seconds = ended.seconds

    def train(self, out: Path, *settings: str, steps: int | None = None) -> list[str]:
        """The arguments that start the run in ``out``, and continue it."""
        often = [f"run.save_every={self.save}", f"run.preview_every={self.preview}"]
        length = str(self.steps if steps is None else steps)
        return ["train", str(self.data), "--out", str(out), "--steps", length, *SETTINGS, *often, *settings]

    def folder(self, name: str) -> Path:
        """A place for a run, in a folder of its own."""
        (self.root / name).mkdir()
        return self.root / name / "run"

    def finish(self, run: Path, outcome: Outcome, what: str, *, older: bool = True) -> None:
        """Continue ``run`` undisturbed: it must end equal to the whole one."""
        ended = self.forks(self.train(run))
        outcome.slowest = max(outcome.slowest, ended.seconds)
        outcome.check(ended.code == 0, f"{what}: continuing it ended with {ended.code}: {ended.err.strip()}")
        if ended.code == 0:
            found = differences(run, self.whole, older=older)
            outcome.check(not found, f"{what}: differs from the whole run in {found[:4]}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of checkpoints that are passed over."""
    log = logging.getLogger("alphabar")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def newest(run: Path) -> int:
    """The step of the newest intact checkpoint, 0 without one."""
    with quiet():
        found = checkpoint.latest(run)
    return 0 if found is None else step_of(found)


def unloadable(run: Path) -> list[str]:
    """The checkpoints that do not fit their manifest."""
    bad = []
    for path in checkpoint.steps(run):
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            bad.append(str(error))
    return bad


def contents(run: Path, older: bool) -> dict[str, Any]:
    """Every file of a run: its bytes, or the parsed lines of the log without what may differ."""
    found: dict[str, Any] = {}
    spared = () if older else tuple(f"{path.name}/" for path in checkpoint.steps(run)[1:])
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name in EXCLUDED_FILES or name.startswith(("damaged-", *spared)):
            continue
        found[name] = metrics(path) if name == "metrics.jsonl" else path.read_bytes()
    return found


def metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what may differ."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in EXCLUDED_METRICS} for line in lines]


def differences(run: Path, whole: Path, *, older: bool = True) -> list[str]:
    """The names of the files that two finished runs differ in: weights, averages, moments, log, previews, settings.

    ``older`` checkpoints than the last are left aside where a signal, or a disk, had one made at another step.
    """
    one, other = contents(run, older), contents(whole, older)
    leftovers = [name for name in one if storage.TEMPORARY in name]
    return leftovers + sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def one_line(text: str) -> bool:
    """Whether a message is one line of an error, for people."""
    lines = text.splitlines()
    return len([x for x in lines if x.startswith("error: ")]) == 1 and "Traceback" not in text


def log_fits(run: Path, whole: Path) -> str:
    """What is wrong with the log of a run for its newest checkpoint, or nothing."""
    with quiet():
        found = checkpoint.latest(run)
    if found is None:
        return ""
    lines = json.loads((found / "state.json").read_text())["metrics_lines"]
    held = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (run / "metrics.jsonl").exists() else []
    wanted = (whole / "metrics.jsonl").read_bytes().split(b"\n")[:lines]
    strip = re.compile(rb', "seconds": [^},]*')
    if len(held) < lines:
        return f"{len(held)} lines, the checkpoint has {lines}"
    same = [strip.sub(b"", line) for line in held[:lines]] == [strip.sub(b"", line) for line in wanted]
    return "" if same else "the lines of the checkpoint are not those of the whole run"
