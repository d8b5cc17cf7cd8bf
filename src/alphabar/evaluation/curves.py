"""Curves of a run as pictures (needs the extra ``plots``)."""

from __future__ import annotations

import io
import json
from pathlib import Path

from alphabar.base.errors import MissingExtra

__all__ = ["loss_curve", "read_metrics"]


def read_metrics(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, loss) of every step and (step, held-out loss) of every measurement in a ``metrics.jsonl``.

    A line that is no JSON is left out.
    """
    losses, held_out = [], []
    for line in path.read_bytes().splitlines():
        try:
            facts = json.loads(line)
        except ValueError:  # half a line, or zeros: what a lost page leaves
            continue
        if "loss" in facts:
            losses.append((facts["step"], facts["loss"]))
        if "held_out_loss" in facts:
            held_out.append((facts["step"], facts["held_out_loss"]))
    return losses, held_out


def _smooth(losses: list[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Means of consecutive stretches of ``window`` steps, each at its middle."""
    stretches = [losses[i : i + window] for i in range(0, len(losses), window)]
    return [(part[len(part) // 2][0], sum(loss for _, loss in part) / len(part)) for part in stretches]


def loss_curve(metrics: Path) -> bytes:
    """The training and held-out loss against the step, as a PNG file.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("the loss curve", "matplotlib", "plots") from None
    losses, held_out = read_metrics(metrics)
    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*losses, strict=True), color="#9db8d9", linewidth=0.6, label="each step")
    means = _smooth(losses, max(1, len(losses) // 100))
    axes.plot(*zip(*means, strict=True), color="#1f4e8c", linewidth=1.6, label="mean of 1 % of the run")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="#c2410c", markersize=4, label="held out, EMA weights")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
