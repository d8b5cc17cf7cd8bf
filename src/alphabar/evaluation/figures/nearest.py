"""Samples beside the training images that are nearest to them (Figs. 13–15): new, or copied?"""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.data.batch import Images
from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.samplers.generate import generate

__all__ = ["NEAREST", "k_nearest"]

SAMPLES, NEIGHBOURS = 5, 6


def k_nearest(images: Tensor, others: Images, k: int, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of ``others`` for each of ``images`` uint8 [N, C, H, W]: (index, RMSE on 0–255) [N, k].

    Nearest first, by the exact Euclidean distance; of equal ones the image that comes first in ``others``, which are
    read ``chunk`` at a time.

    Raises:
        ConfigError: if there are fewer than ``k``.
    """
    if not 1 <= k <= len(others):
        raise ConfigError(f"k: got {k}, need 1 … {len(others)}, the number of images to choose from")
    a = images.flatten(1).double()
    best = torch.empty((len(a), 0), dtype=torch.float64)
    index = torch.empty((len(a), 0), dtype=torch.int64)
    for start in range(0, len(others), chunk):
        places = torch.arange(start, min(start + chunk, len(others)))
        b = others.gather(places.numpy()).x.flatten(1).double()
        squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        both = torch.cat([best, squared], dim=1)
        where = torch.cat([index, places.expand(len(a), -1)], dim=1)
        order = both.sort(dim=1, stable=True).indices[:, :k]
        best, index = both.gather(1, order), where.gather(1, order)
    return index, (best.clamp(min=0) / a.shape[1]).sqrt()


def make(subject: Subject) -> Figure:
    """Some samples, each with its nearest training images."""
    train = subject.seen
    k = min(NEIGHBOURS, len(train))
    seeds = subject.seeds(SAMPLES)
    samples = generate(
        subject.denoiser, subject.sampler, subject.chain, seeds, y=subject.labels(seeds), batch=subject.batch
    )
    index, rmse = k_nearest(samples, train, k)
    neighbours = torch.stack([train.gather(row.numpy()).x for row in index])
    sheet = Sheet(
        rows=[[sample, *row] for sample, row in zip(samples, neighbours, strict=True)],
        columns=["sample", *(_ordinal(i) for i in range(k))],
        below=[["", *(f"{d:.1f}" for d in row)] for row in rmse.tolist()],
        heads=[(1, k, "nearest training images")],
        breaks=[0],
    )
    return Figure(
        "nearest",
        "New, or copied? The nearest training images",
        f"Left: samples, seeds {seeds[0]} to {seeds[-1]}, none left out. Right: the nearest of {len(train)} training "
        "images, the nearest first. The number under each is its distance from the sample: the root mean squared "
        "difference of the pixels in grey levels of 0–255. A copy would be (nearly) 0. Ho et al. (2020), Figs. 13–15.",
        sheet.draw,
        arrays={
            "seeds": torch.tensor(seeds).numpy(),
            "samples": samples.numpy(),
            "neighbours": neighbours.numpy(),
            "index": index.numpy(),
            "rmse": rmse.numpy(),
        },
        tables={
            "": Table(
                ["seed", "rank", "training_image", "rmse"],
                [
                    [seed, rank + 1, int(index[i, rank]), float(rmse[i, rank])]
                    for i, seed in enumerate(seeds)
                    for rank in range(k)
                ],
            )
        },
        grids={"grid": sheet.picture()},
    )


def _ordinal(i: int) -> str:
    return ("1st", "2nd", "3rd")[i] if i < 3 else f"{i + 1}th"


NEAREST = Recipe(make, lambda subject: SAMPLES * len(subject.chain) if subject.train is not None else 0)
