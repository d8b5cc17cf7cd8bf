"""Sample quality over the reverse process (Fig. 10): how far the expected images are from the training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from alphabar.base.pixels import to_model_range, to_uint8
from alphabar.data.batch import Images
from alphabar.evaluation.features.base import Features
from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.render import DARK, FIRST, GREY, plot_area, whole_numbers
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.moments import Moments
from alphabar.samplers.generate import frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["QUALITY", "coarse_pixels", "estimates_over_time"]

TIMES = 12
REFERENCE = 2048
COARSE = 8


def coarse_pixels(images: Tensor) -> Features:
    """The pixels themselves in [−1, 1], averaged to at most 8×8 of them: [B, C·8·8]."""
    height, width = images.shape[-2:]
    small = adaptive_avg_pool2d(to_model_range(images), (min(height, COARSE), min(width, COARSE)))
    return Features(small.flatten(1), None)


def estimates_over_time(subject: Subject, count: int = TIMES) -> tuple[list[int], Tensor]:
    """x̂_0 of ``subject.n`` samples at ``count`` times from T down, the last of them 0: uint8 [K, N, C, H, W]."""
    times = subject.chain.times
    wanted = spread(times, count)[:-1]
    parts = []
    seeds = subject.seeds(subject.n)
    for start in range(0, len(seeds), subject.batch):
        some = seeds[start : start + subject.batch]
        kept, x = [], None
        for place, frame in enumerate(
            frames(subject.denoiser, subject.sampler, subject.chain, some, subject.labels(some))
        ):
            x = frame.x
            if place in wanted:
                kept.append(to_uint8(frame.x0).cpu())
        assert x is not None
        parts.append(torch.stack([*kept, to_uint8(x).cpu()]))
    return [*(times[place] for place in wanted), 0], torch.cat(parts, dim=1)


def make(
    subject: Subject,
    *,
    features: Callable[[Tensor], Features] = coarse_pixels,
    space: str = "pixels in [−1, 1], averaged to at most 8 by 8 of them",
) -> Figure:
    """The Fréchet distance in the space of ``features``, which ``space`` describes in words."""
    train = subject.seen
    real, others = _reference(train, subject.n)
    reference = _moments(features, real, subject.batch)
    times, estimates = estimates_over_time(subject)
    steps = [subject.T - t for t in times]
    distances = [frechet_distance(_moments(features, images, subject.batch), reference) for images in estimates]
    floor = None if others is None else frechet_distance(_moments(features, others, subject.batch), reference)

    def draw(figure: Canvas) -> None:
        plot_area(figure, 460)
        axes = figure.subplots()
        axes.plot(steps, distances, "o-", color=FIRST, markersize=4)
        if floor is not None:
            axes.axhline(floor, color=GREY, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"{subject.n} real images: {floor:.3g}",
                (0.01, floor),
                xycoords=("axes fraction", "data"),
                xytext=(0, 4),
                textcoords="offset points",
                color=DARK,
            )
        axes.set_ylim(bottom=0)
        whole_numbers(axes)
        axes.set_xlabel(f"reverse process steps T − t  (0 = pure noise, {subject.T} = finished)")
        axes.set_ylabel("Fréchet distance to\ntraining images")

    measured = f"of {subject.n} samples to {len(real)} training images"
    compared = (
        f" The dashed line is the same distance for {subject.n} other training images, about what as many "
        "perfect samples would reach."
        if floor is not None
        else ""
    )
    return Figure(
        "quality",
        "Quality over the reverse process",
        f"The Fréchet distance {measured}, lower is better: at each time the images that the network expects to end "
        f"with, at the right end the samples themselves. Features: {space}; so these numbers compare with each other "
        f"and with no FID in the literature.{compared} Ho et al. (2020), Fig. 10.",
        draw,
        arrays={
            "times": np.array(times),
            "frechet": np.array(distances),
            "frechet_of_real_images": np.array(np.nan if floor is None else floor),
            "estimates": estimates.numpy(),
        },
        tables={
            "": Table(
                ["t", "reverse_steps", "frechet_distance"],
                [list(row) for row in zip(times, steps, distances, strict=True)],
            )
        },
    )


def _reference(train: Images, n: int) -> tuple[Tensor, Tensor | None]:
    """Training images to compare with, and as many others as there are samples if the set is large enough."""
    enough = len(train) >= 2 * n
    first = n if enough else 0
    real = train.gather(np.arange(first, min(len(train), first + REFERENCE))).x
    return real, train.gather(np.arange(n)).x if enough else None


def _moments(features: Callable[[Tensor], Features], images: Tensor, batch: int) -> Moments:
    return Moments.of(torch.cat([features(images[i : i + batch]).values for i in range(0, len(images), batch)]))


QUALITY = Recipe(
    make, lambda subject: subject.n * len(subject.chain) if subject.train is not None else 0, shows_images=False
)
