"""The noise schedule of the model: how much of the image is left at each time, and how fast it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.render import FIRST, SECOND, plot_area, whole_numbers
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.process import equations as eq

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["SCHEDULE"]


def make(subject: Subject) -> Figure:
    """Three panels: signal and noise, the variances of one step, the signal-to-noise ratio."""
    schedule = subject.chain.schedule
    t = np.arange(1, schedule.T + 1)
    abar_t, abar_s = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
    table = {
        "alpha_bar": abar_t,
        "signal": abar_t.sqrt(),
        "noise": (1 - abar_t).sqrt(),
        "beta": schedule.betas,
        "beta_tilde": torch.as_tensor(eq.beta_tilde(abar_t, abar_s)),
        "snr": torch.as_tensor(eq.snr(abar_t)),
    }
    columns = {name: values.numpy() for name, values in table.items()}

    def draw(figure: Canvas) -> None:
        plot_area(figure, 430)
        first, second, third = figure.subplots(1, 3)
        first.plot(t, columns["signal"], color=FIRST, label="image")
        first.plot(t, columns["noise"], color=SECOND, label="noise")
        first.set_ylim(0, 1.02)
        first.set_title("Parts of a noisy image")
        first.legend()
        second.plot(t, columns["beta"], color=FIRST, label=r"$\beta_t$")
        # the posterior variance of the first step is 0 and has no place on a logarithmic axis
        second.plot(t[1:], columns["beta_tilde"][1:], color=SECOND, linestyle="--", label=r"$\tilde\beta_t$")
        second.set_yscale("log")
        second.set_title("Variance of one step")
        second.legend()
        positive = columns["snr"] > 0
        third.plot(t[positive], columns["snr"][positive], color=FIRST)
        third.axhline(1, color="#9ca3af", linewidth=1, linestyle=":")
        third.set_yscale("log")
        third.set_title("Signal-to-noise ratio")
        for axes in (first, second, third):
            axes.set_xlabel("time t")
            axes.set_xlim(0, schedule.T)
            whole_numbers(axes)

    half = int(t[(columns["snr"] < 1).argmax()]) if (columns["snr"] < 1).any() else schedule.T
    kind = "a table of its own" if schedule.spec is None else type(schedule.spec).__name__
    return Figure(
        "schedule",
        f"Noise schedule ({kind}, T = {schedule.T})",
        "Left: a noisy image is √ᾱₜ times the image plus √(1 − ᾱₜ) times noise of variance 1. Middle: βₜ is the "
        "variance of the noise that the forward process adds at step t, β̃ₜ that of the step back when the image is "
        f"known (0 at t = 1). Right: the signal-to-noise ratio ᾱₜ/(1 − ᾱₜ); from t = {half} on (below the dotted "
        f"line) there is more noise than image. At the end it is {columns['snr'][-1]:.2g}. Ho et al. (2020), Eqs. 2, 4 "
        "and 7.",
        draw,
        arrays={"t": t, **columns},
        tables={
            "": Table(
                ["t", *columns],
                [[int(time), *(float(column[i]) for column in columns.values())] for i, time in enumerate(t)],
            )
        },
    )


SCHEDULE = Recipe(make, lambda subject: 0, shows_images=False)
