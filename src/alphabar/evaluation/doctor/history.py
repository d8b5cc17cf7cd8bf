"""What a run wrote about its training: losses, rates, norms, held-out losses, skipped steps, its end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from alphabar.base import storage
from alphabar.base.errors import CheckpointError

__all__ = ["History", "Point", "slope"]

WINDOWS = 20


@dataclass(frozen=True)
class Point:
    """A loss at a step."""

    step: int
    loss: float


@dataclass(frozen=True)
class History:
    """``metrics.jsonl``, ``run.json`` and ``diverged.json``; whatever is missing is empty here.

    Attributes:
        losses: of every step.
        held_out: at every preview.
        norms: of every gradient, before clipping.
        rates: of every step.
        seconds: of every step.
        skipped: steps that were not taken because loss or gradient was not finite.
        state: ``run.json``.
        diverged: ``diverged.json``, or None.
    """

    losses: tuple[Point, ...] = ()
    held_out: tuple[Point, ...] = ()
    norms: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    skipped: tuple[int, ...] = ()
    state: Mapping[str, Any] | None = None
    diverged: Mapping[str, Any] | None = None

    @staticmethod
    def read(run: Path) -> History:
        """The history of the run in the folder ``run``; lines that are torn or of another kind are passed over."""
        lines = list(_lines(run / "metrics.jsonl"))
        steps = [line for line in lines if _number(line.get("loss")) and not line.get("skipped")]
        return History(
            losses=tuple(Point(line["step"], line["loss"]) for line in steps),
            held_out=tuple(Point(line["step"], line["held_out_loss"]) for line in lines if "held_out_loss" in line),
            norms=tuple(line["grad_norm"] for line in steps if _number(line.get("grad_norm"))),
            rates=tuple(line["lr"] for line in steps if _number(line.get("lr"))),
            seconds=tuple(line["seconds"] for line in steps if _number(line.get("seconds"))),
            skipped=tuple(line["step"] for line in lines if line.get("skipped")),
            state=_table(run / "run.json"),
            diverged=_table(run / "diverged.json"),
        )

    @property
    def step(self) -> int:
        """The last step that was taken."""
        return self.losses[-1].step if self.losses else 0

    def updates(self, step: int) -> int:
        """How many of the first ``step`` steps moved the weights."""
        return step - sum(skipped <= step for skipped in self.skipped)

    def windows(self) -> list[Point]:
        """Medians of the training loss over twenty equal stretches, each at its last step."""
        n = len(self.losses)
        width = max(1, n // WINDOWS)
        parts = [self.losses[start : start + width] for start in range(n % width, n, width)]
        return [Point(part[-1].step, median(p.loss for p in part)) for part in parts]


def _lines(path: Path) -> Sequence[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _table(path: Path) -> Mapping[str, Any] | None:
    try:
        value = storage.read_json(path) if path.exists() else None
    except CheckpointError:
        return None
    return value if isinstance(value, dict) else None


def slope(points: Sequence[Point]) -> float | None:
    """d ln loss / d ln step by Theil and Sen, the median over pairs, which single odd points do not move.

    None for fewer than three points, or a loss that is not positive (a bound may be).
    """
    if len(points) < 3 or any(p.loss <= 0 or p.step <= 0 for p in points):
        return None
    slopes = [
        math.log(b.loss / a.loss) / math.log(b.step / a.step)
        for i, a in enumerate(points)
        for b in points[i + 1 :]
        if b.step > a.step
    ]
    return median(slopes) if slopes else None
