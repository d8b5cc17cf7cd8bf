"""Laws of growth: time and memory against one size at a time, beside the work that the size asks for.

The slope in a log-log plot is the exponent: 1 doubles with the size. Nothing may grow faster than its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.ceiling import work
from benchmark.race import Worker
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


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of values ≈ c·sizes^p, by least squares in logarithms; all must be positive."""
    p, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(p)


def top_slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent over the three largest sizes, where fixed costs hide the least."""
    return slope(sizes[-3:], values[-3:])


def _point(law: Law, value: int, threads: int, repeats: int) -> dict[str, float]:
    """Seconds, bytes beyond those before the first call, and FLOPs of one call."""
    spec = law.spec(value, threads)
    counted = work(spec)
    flops = spec.batch * (counted["step"] if law.action == "step" else counted["forward"] * value)
    with Worker(spec) as worker:
        before = worker.peak
        worker.seconds(law.action)
        seconds = min(worker.seconds(law.action, repeats))
        return {"seconds": seconds, "bytes": max(1, worker.peak - before), "flops": flops}


def measure(law: Law, threads: int, *, quick: bool) -> dict[str, Any]:
    """The points of a law, their exponents, and whether time or memory outgrows the work."""
    values = law.quick if quick else law.values
    points = [_point(law, value, threads, 2 if quick else 3) for value in values]
    columns = {key: [point[key] for point in points] for key in ("seconds", "bytes", "flops")}
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
    """One panel per law: time, memory and work, each relative to its first point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), constrained_layout=True)
    for panel, (name, law) in zip(np.atleast_1d(panels), results.items(), strict=True):
        for key, label, style in (("flops", "work", "k--"), ("seconds", "time", "C0o-"), ("bytes", "memory", "C1s-")):
            values = np.asarray(law[key]) / law[key][0]
            panel.loglog(law["values"], values, style, label=f"{label}, exponent {law['exponent'][key]:.2f}")
        panel.set_xlabel(name)
        panel.set_title({"step": "training step", "sample": "sampling"}[law["action"]], fontsize=10)
        panel.set_xticks(law["values"], [str(v) for v in law["values"]])
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
