"""Curves of a run as pictures (needs the extra ``plots``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from alphabar.base.errors import MissingExtra
from alphabar.evaluation.doctor.history import History, Point

__all__ = ["loss_curve"]


def _smooth(losses: Sequence[Point], window: int) -> list[Point]:
    """Means of consecutive stretches of ``window`` steps, each at its middle."""
    stretches = [losses[i : i + window] for i in range(0, len(losses), window)]
    return [Point(part[len(part) // 2].step, fmean(point.loss for point in part)) for part in stretches]


def _line(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [point.step for point in points], [point.loss for point in points]


def loss_curve(run: Path) -> bytes:
    """The training and held-out loss of the run in a folder against the step, as a PNG file.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("the loss curve", "matplotlib", "plots") from None
    history = History.read(run)
    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(*_line(history.losses), color="#9db8d9", linewidth=0.6, label="each step")
    means = _smooth(history.losses, max(1, len(history.losses) // 100))
    axes.plot(*_line(means), color="#1f4e8c", linewidth=1.6, label="mean of 1 % of the run")
    if history.held_out:
        axes.plot(*_line(history.held_out), "o-", color="#c2410c", markersize=4, label="held out, EMA weights")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
