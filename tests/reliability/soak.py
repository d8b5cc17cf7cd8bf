"""R17: one long run with many faults of every kind, mixed by a seed."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.weights import checkpoint
from reliability.corruption import flip
from reliability.runner import KILLED, Outcome, Toy, newest, step_of, unloadable

__all__ = ["memory_growth", "soak"]

Fault = tuple[str, list[dict[str, Any]], list[dict[str, Any]], int]


def soak(toy: Toy, faults: int, seed: int) -> Outcome:
    """R17. Sessions that are killed, stopped, crashed, refused and damaged until ``faults`` are used up, then the rest.

    It must end equal to the undisturbed run and leave nothing behind. A run that ends earlier is followed by another.
    """
    rng, outcome, run = random.Random(seed), Outcome(), toy.folder(f"soak-{seed}-0")
    shared, reached, runs = set(os.listdir("/dev/shm")), 0, 1
    kinds: dict[str, int] = {}
    damaged: Path | None = None
    while outcome.trials < faults:
        name, does, signals, code = _next(rng, toy, run)
        ended = toy.forks(toy.train(run), *does, signals=signals)
        outcome.trials += 1
        kinds[name] = kinds.get(name, 0) + 1
        where = f"fault {outcome.trials} ({name})"
        outcome.check(ended.code in (0, code), f"{where}: exit code {ended.code}: {ended.err}")
        # what was damaged stays until the run comes to that step again
        if damaged is not None and newest(run) >= step_of(damaged):
            damaged = None
        unexpected = [error for error in unloadable(run) if damaged is None or str(damaged) not in error]
        outcome.check(not unexpected, f"{where}: {unexpected}")
        before, reached = reached, newest(run)
        outcome.check(reached >= before, f"{where}: went back from step {before} to {reached}")
        if ended.code == 0:
            _finished(toy, run, outcome, shared)
            run, reached, runs, damaged = toy.folder(f"soak-{seed}-{runs}"), 0, runs + 1, None
        elif damaged is None:
            damaged = _damage(rng, run, outcome, reached)
            reached = newest(run)
    _finished(toy, run, outcome, shared)
    outcome.facts = {"kinds": kinds, "runs": runs}
    return outcome


def _finished(toy: Toy, run: Path, outcome: Outcome, shared: set[str]) -> None:
    toy.finish(run, outcome, "the last session", older=False)
    left = [str(path) for path in run.parent.rglob("*") if storage.TEMPORARY in path.name]
    left += [name for name in os.listdir("/dev/shm") if name.startswith("torch_") and name not in shared]
    outcome.check(not left, f"left behind: {left}")


def memory_growth(toy: Toy) -> float:
    """R17. By what share the resident memory of an undisturbed run grows from a tenth of its steps to the end."""
    run, report = toy.folder("memory"), toy.root / "memory.json"
    ended = toy.forks(toy.train(run), {"kind": "resident", "report": str(report)})
    assert ended.code == 0, ended.err
    seen = {int(step): size for step, size in json.loads(report.read_text()).items()}
    early = [size for step, size in seen.items() if step >= toy.steps / 10]
    return early[-1] / early[0] - 1


def _next(rng: random.Random, toy: Toy, run: Path) -> Fault:
    """One session: its name, what it does to itself, the signals it gets, the exit code that is due."""
    share = toy.steps // 50
    due = newest(run) + rng.randrange(1, share)
    after = rng.uniform(0, 0.02 * toy.seconds)
    seen = str(run / f"step-{(newest(run) // toy.save + 1) * toy.save:09d}")
    root = str(run.parent)
    makers: list[Callable[[], Fault]] = [
        lambda: ("kill -9", [], [{"signal": signal.SIGKILL, "exists": seen, "after": after}], KILLED),
        lambda: ("SIGTERM", [], [{"signal": signal.SIGTERM, "exists": seen, "after": after}], 75),
        lambda: ("SIGUSR1", [], [{"signal": signal.SIGUSR1, "exists": seen, "after": after}], 75),
        lambda: ("Ctrl-C", [], [{"signal": signal.SIGINT, "exists": seen, "after": after}], 130),
        lambda: ("crash at an operation", [_crash(root, rng)], [], KILLED),
        lambda: ("full disk, then killed", [_refuse(root, due, errno.ENOSPC)], [_kill(seen, after)], KILLED),
        lambda: ("broken disk, then killed", [_refuse(root, due, errno.EIO)], [_kill(seen, after)], KILLED),
        lambda: ("wrong clock", [{"kind": "clock", "seconds": -6e7}], [_kill(seen, after)], KILLED),
        lambda: ("other prefetch", [{"kind": "ahead", "batches": 1}], [_kill(seen, after)], KILLED),
    ]
    return rng.choice(makers)()


def _kill(seen: str, after: float) -> dict[str, Any]:
    return {"signal": signal.SIGKILL, "exists": seen, "after": after}


def _crash(root: str, rng: random.Random) -> dict[str, Any]:
    return {"kind": "crash", "root": root, "at": rng.randrange(60, 400)}


def _refuse(root: str, since: int, code: int) -> dict[str, Any]:
    return {"kind": "refuse", "root": root, "since": since, "until": since + 3, "code": code}


def _damage(rng: random.Random, run: Path, outcome: Outcome, reached: int) -> Path | None:
    """Now and then a bit of the newest checkpoint flips, where there is one before; that checkpoint."""
    steps = checkpoint.steps(run)
    if len(steps) < 2 or rng.random() > 0.15:
        return None
    file = rng.choice(sorted(steps[0].iterdir()))
    flip(file, file, rng)
    outcome.check(newest(run) < reached, f"a flipped bit in {file.name} was not found")
    return steps[0]
