"""Rate and distortion over time (Fig. 5, Table 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.render import FIRST, plot_area, whole_numbers
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.evaluation.rate_distortion import RateDistortion, rate_distortion

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["RATE_DISTORTION", "table_4"]

RATE = "rate (bits/dim)"
DISTORTION = "distortion (RMSE, 0–255)"


def table_4(found: RateDistortion, rows: int = 10) -> Table:
    """About ten times in the form of the paper's Table 4: T − t + 1, rate, distortion, the finished image first."""
    T = len(found.times)
    rows = min(rows, T)
    chosen = [T * k // rows for k in range(rows, 0, -1)]
    return Table(
        ["reverse process time (T-t+1)", "rate (bits/dim)", "distortion (RMSE [0, 255])"],
        [[steps, float(found.rate[steps - 1]), float(found.distortion[steps - 1])] for steps in chosen],
    )


def make(subject: Subject) -> Figure:
    """Three panels and two tables."""
    bound = subject.bound
    found = rate_distortion(bound)
    steps = (subject.T - found.times).tolist()
    rate, distortion = found.rate.tolist(), found.distortion.tolist()
    few = spread(steps, 24)

    def draw(figure: Canvas) -> None:
        plot_area(figure, 430)
        first, second, third = figure.subplots(1, 3)
        for axes, x, y, x_label, y_label in (
            (first, steps, distortion, "reverse steps T − t", DISTORTION),
            (second, steps, rate, "reverse steps T − t", RATE),
            (third, rate, distortion, RATE, DISTORTION),
        ):
            axes.plot(x, y, color=FIRST, linewidth=1.2, marker="o", markersize=3, markevery=few)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        for axes in (first, second):
            whole_numbers(axes)

    table = table_4(found)
    total, lossless = rate[-1], float(bound.bits_per_dim.mean())
    return Figure(
        "rate_distortion",
        "Progressive coding: rate and distortion",
        f"If {len(bound.nats)} held-out images are sent step by step along the reverse process, the rate is what has "
        "been sent so far, in bits per colour value, and the distortion is the error of the image that the receiver "
        "would guess at that point (root mean squared, in grey levels of 0–255). The points are equally spaced in "
        f"time. All steps together take {total:.3f} bits/dim, and the image to the last bit {lossless:.3f} (untouched "
        f"pixels take 8): {total / lossless:.0%} of the code brings the error down to {distortion[-1]:.2f} levels. "
        "Ho et al. (2020), Section 4.3, Fig. 5 and Table 4.",
        draw,
        arrays={"times": found.times.numpy(), "rate": found.rate.numpy(), "distortion": found.distortion.numpy()},
        tables={
            "": Table(
                ["t", "reverse_steps", "rate_bits_per_dim", "distortion_rmse"],
                [list(row) for row in zip(found.times.tolist(), steps, rate, distortion, strict=True)],
            ),
            "table": table,
        },
        text=table.text(),
    )


RATE_DISTORTION = Recipe(make, lambda subject: 0, uses_bound=True, shows_images=False)
