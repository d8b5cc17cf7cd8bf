"""Contestants side by side: each in its process and environment, set up once, then asked in turn, round after round.

Noise of the machine that lasts longer than a round falls on all of them alike, so ratios are formed within each round.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmark.spec import Spec

__all__ = ["OURS", "Failed", "Timed", "Worker", "median_ratio", "race"]

SCRIPTS = Path(__file__).resolve().parents[1]
OURS = ("alphabar", "naive")


class Failed(Exception):
    """A contestant could not be built or run; the text says why."""


class Worker:
    """A process with one contestant; ``with Worker(spec) as worker: worker.seconds("step", 3)``."""

    def __init__(self, spec: Spec, python: str | Path = sys.executable, cache: Path | None = None) -> None:
        self.spec = spec
        environment = {**os.environ, "OMP_NUM_THREADS": str(spec.threads), "PYTHONWARNINGS": "ignore"}
        paths = [str(SCRIPTS), *([p for p in sys.path if p] if spec.contestant in OURS else [])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["CUDA_VISIBLE_DEVICES"] = (
            os.environ.get("CUDA_VISIBLE_DEVICES", "0") if spec.device != "cpu" else ""
        )
        if cache is not None:
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        self.process = subprocess.Popen(
            [str(python), "-m", "benchmark.worker", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        try:
            self.facts = self._answer()
        except Failed:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.spec.label}: its process ended with code {self.process.wait()}")
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise Failed(f"{self.spec.label}: {facts['error']}")
        return facts

    def seconds(self, action: str, count: int = 1) -> list[float]:
        """How long ``action`` took, ``count`` times."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": action, "count": count}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.spec.label}: its process ended with code {self.process.wait()}") from None
        self.facts |= self._answer()
        return list(self.facts["seconds"])

    @property
    def actions(self) -> list[str]:
        """What can be timed of it."""
        return list(self.facts["actions"])

    @property
    def peak(self) -> int:
        """The most bytes it has held, as of its last answer."""
        return int(self.facts["peak"])

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Timed:
    """Seconds per image of one contestant: one number per round and action."""

    spec: Spec
    parameters: int
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, action: str) -> float:
        return statistics.median(self.rounds[action])


def race(
    workers: Sequence[Worker],
    actions: Mapping[str, int],
    notes: list[str],
    *,
    seconds: float,
    least: int,
    most: int = 15,
) -> list[Timed]:
    """Rounds in which every worker does every action (``count`` times) in an order drawn anew, while ``seconds`` last.

    Every action is done twice before: buffers and compiled code are made at the first call, and again at the first
    call after another action. Whoever fails is left out, with a note why.
    """
    running = {
        worker: Timed(worker.spec, worker.facts["parameters"], {action: [] for action in actions}) for worker in workers
    }

    def timed(worker: Worker, action: str, count: int) -> float:
        try:
            return statistics.median(worker.seconds(action, count)) / worker.spec.batch
        except Failed as reason:
            notes.append(str(reason))
            del running[worker]
            return math.nan

    for worker in workers:
        for action in [*actions, *actions]:
            if worker in running:
                timed(worker, action, 1)
    order = random.Random(0)
    began = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - began > seconds:
            break
        for action, count in actions.items():
            for worker in order.sample(list(running), len(running)):
                took = timed(worker, action, count)
                if worker in running:
                    running[worker].rounds[action].append(took)
    return list(running.values())


def median_ratio(a: Timed, b: Timed, action: str) -> float:
    """How many times as long ``a`` takes as ``b``: the median over the rounds of the ratio within a round."""
    return statistics.median(x / y for x, y in zip(a.rounds[action], b.rounds[action], strict=True))
