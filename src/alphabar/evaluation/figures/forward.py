"""The forward process: images that dissolve into noise (Fig. 2 of the paper, from right to left)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alphabar.base.pixels import to_model_range, to_uint8
from alphabar.base.rng import PerImage, derive
from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.process import equations as eq
from alphabar.process.schedules import Schedule

__all__ = ["FORWARD", "noised"]


def noised(images: Tensor, schedule: Schedule, times: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """x_t ~ q(x_t | x_0) of ``images`` uint8 [N, C, H, W] at K ``times``: x [N, K, C, H, W] and ε [N, C, H, W].

    Every image keeps its own ε for all times, so that only the mixture changes. At t = 0 it is the image.
    """
    x0 = to_model_range(images)
    eps = PerImage([derive(seed, "forward", i) for i in range(len(images))]).randn_like(x0)
    x = [eq.q_sample(x0, eps, float(schedule.alpha_bar[t])) for t in times]
    return torch.stack(x, dim=1), eps


def make(subject: Subject, *, rows: int = 5, columns: int = 9) -> Figure:
    """Some images at times spread from 0 to T."""
    images, words = subject.some_images
    count = min(rows, len(images))
    schedule = subject.chain.schedule
    times = spread(range(schedule.T + 1), columns)
    pixels = images.gather(torch.arange(count).numpy()).x
    x, eps = noised(pixels, schedule, times, subject.seed)
    abar = schedule.alpha_bar[times]
    shown = to_uint8(x)
    sheet = Sheet(
        rows=[list(row) for row in shown],
        columns=[str(t) for t in times],
        heads=[(0, len(times) - 1, "time t  →")],
        below=[[""] * len(times)] * (count - 1) + [[_percent(a**0.5) for a in abar.tolist()]],
    )
    return Figure(
        "forward",
        "Forward process: an image becomes noise",
        f"Each row is one {words} image x₀ (left, t = 0) to which more and more Gaussian noise is added, until at "
        f"t = {schedule.T} nothing but noise is left (right). A noisy image is √ᾱₜ times the image plus √(1 − ᾱₜ) "
        "times noise; the percentage under each column is √ᾱₜ, the part of the image that is left. Each row keeps one "
        "draw of the noise throughout. Values beyond black and white are clipped for display. Ho et al. (2020), Eq. 4.",
        sheet.draw,
        arrays={
            "images": pixels.numpy(),
            "times": torch.tensor(times).numpy(),
            "alpha_bar": abar.numpy(),
            "noise": eps.numpy(),
            "x_t": x.numpy(),
        },
        tables={
            "": Table(
                ["t", "alpha_bar", "signal", "noise"],
                [[t, a, a**0.5, (1 - a) ** 0.5] for t, a in zip(times, abar.tolist(), strict=True)],
            )
        },
        grids={"grid": sheet.picture()},
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


FORWARD = Recipe(make, lambda subject: 0)
