"""Laws of growth: time and memory against one size at a time, beside the work that the size asks for.

The slope in a log-log plot is the exponent: 1 doubles with the size. Nothing may grow faster than its work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.ceiling import work
from benchmark.race import Failed, Worker, race
from benchmark.spec import Spec

__all__ = ["LAWS", "Law", "measure", "plot", "slope"]

# small enough that 256² fits, with attention at the lowest resolution as all our networks have it
NET = {
    "base_channels": 32,
    "base_channels_multiples": [1, 2, 2],
    "apply_attention": [False, False, False],
    "num_res_blocks": 1,
    "norm_groups": 8,
}
TOLERANCE = 0.1  # of an exponent: what caches and noise may add


@dataclass(frozen=True)
class Law:
    """One size that grows: its values, what is timed, and the contestant of each value."""

    name: str
    values: tuple[int, ...]
    action: str = "step"
    batch: int = 4
    quick: tuple[int, ...] = field(default=())

    def spec(self, value: int, threads: int) -> Spec:
        sizes: dict[str, Any] = {"batch": self.batch, "size": 32, "net": dict(NET)}
        if self.name == "channels":
            sizes["net"]["base_channels"] = value
        else:
            sizes[{"batch": "batch", "image size": "size", "chain length": "hops"}[self.name]] = value
        return Spec("alphabar", "cifar10", settings=(), threads=threads, **sizes)


LAWS = (
    Law("batch", (1, 2, 4, 8, 16, 32), quick=(1, 2, 4)),
    Law("image size", (8, 16, 32, 64, 128, 256), batch=2, quick=(8, 16, 32)),
    Law("channels", (16, 32, 64, 128), quick=(16, 32)),
    Law("chain length", (10, 20, 40, 80, 160), action="sample", quick=(2, 4, 8)),
)


def fit(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(p, c) of values ≈ c·sizes^p, by least squares in logarithms; all must be positive."""
    p, log_c = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(p), float(np.exp(log_c))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of :func:`fit`."""
    return fit(sizes, values)[0]


def top_slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent over the three largest sizes, where fixed costs hide the least."""
    return slope(sizes[-3:], values[-3:])


def _flops(law: Law, value: int, threads: int) -> float:
    spec = law.spec(value, threads)
    counted = work(spec)
    return spec.batch * (counted["step"] if law.action == "step" else counted["forward"] * value)


def measure(law: Law, threads: int, *, quick: bool) -> dict[str, Any]:
    """The points of a law, their exponents, and whether time or memory outgrows the work.

    Seconds of a call, the median of rounds in which all points take turns; bytes beyond those before the first call.
    """
    values = law.quick if quick else law.values
    with contextlib.ExitStack() as open_workers:
        workers = [open_workers.enter_context(Worker(law.spec(value, threads))) for value in values]
        before = [worker.peak for worker in workers]
        notes: list[str] = []
        timed = race(workers, {law.action: 1}, notes, seconds=0, least=2 if quick else 7)
        if notes:
            raise Failed(notes[0])
        columns = {
            "seconds": [one.median(law.action) * one.spec.batch for one in timed],
            "bytes": [max(1, worker.peak - low) for worker, low in zip(workers, before, strict=True)],
            "flops": [_flops(law, value, threads) for value in values],
        }
    exponents = {key: slope(values, column) for key, column in columns.items()}
    top = {key: top_slope(values, column) for key, column in columns.items()}
    return {
        "action": law.action,
        "values": list(values),
        **columns,
        "exponent": exponents,
        "exponent_of_the_largest": top,
        "outgrows": [key for key in ("seconds", "bytes") if top[key] > top["flops"] + TOLERANCE],
    }


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per law: time, memory and work, each relative to its first point, and the power laws fitted to them.

    A full line is fitted to all points; a dotted one, longer at its end, to the three largest, which the verdict is of.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), constrained_layout=True)
    for panel, (name, law) in zip(np.atleast_1d(panels), results.items(), strict=True):
        sizes = np.asarray(law["values"], float)
        for key, label, colour, mark in (
            ("flops", "work", "k", "x"),
            ("seconds", "time", "C0", "o"),
            ("bytes", "memory", "C1", "s"),
        ):
            values = np.asarray(law[key]) / law[key][0]
            (p, c), (p_top, c_top) = fit(sizes, values), fit(sizes[-3:], values[-3:])
            panel.loglog(sizes, values, mark, color=colour, label=f"{label}, exponent {p:.2f}, largest {p_top:.2f}")
            panel.loglog(sizes, c * sizes**p, "-", color=colour, linewidth=0.8)
            end = np.geomspace(0.8 * sizes[-3:][0], 1.25 * sizes[-1], 3)
            panel.loglog(end, c_top * end**p_top, ":", color=colour)
        panel.set_xlabel(name)
        panel.set_title({"step": "training step", "sample": "sampling"}[law["action"]], fontsize=10)
        panel.set_xticks(sizes, [str(v) for v in law["values"]])
        panel.minorticks_off()
        panel.legend(fontsize=7)
    panels_of = np.atleast_1d(panels)
    panels_of[0].set_ylabel("relative to the first point")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def rows(results: dict[str, dict[str, Any]]) -> list[str]:
    """A table of the exponents."""
    lines = [
        "| grows | from … to | time | memory | work | largest three: time | memory | work | outgrows its work |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, law in results.items():
        values, all_, top = law["values"], law["exponent"], law["exponent_of_the_largest"]
        cells = [f"{exponents[key]:.2f}" for exponents in (all_, top) for key in ("seconds", "bytes", "flops")]
        what = {"seconds": "time", "bytes": "memory"}
        verdict = ", ".join(what[key] for key in law["outgrows"]) or "nothing"
        lines.append(f"| {name} | {values[0]} … {values[-1]} | {' | '.join(cells)} | {verdict} |")
    return lines
