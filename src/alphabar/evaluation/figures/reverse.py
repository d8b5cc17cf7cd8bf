"""The reverse process: noise that becomes images, as a strip and as an animation."""

from __future__ import annotations

import torch

from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage
from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.evaluation.pictures import enlarge, grid
from alphabar.samplers.generate import frames

__all__ = ["REVERSE"]

ANIMATED = 25
FRAMES = 60


def make(subject: Subject, *, rows: int = 5, columns: int = 9) -> Figure:
    """Some samples at times spread from T to 0, and an animation of a few more of them."""
    seeds = subject.seeds(ANIMATED)
    times = subject.chain.times
    wanted = spread(times, columns)
    shown_in_animation = set(spread(times, FRAMES))
    kept, moving = [], []
    for place, frame in enumerate(
        frames(subject.denoiser, subject.sampler, subject.chain, seeds, subject.labels(seeds)), start=1
    ):
        x = frame.x.cpu()
        if place in wanted:
            kept.append(x[:rows])
        if place in shown_in_animation:
            moving.append(grid(enlarge(to_uint8(x), 48)))
    x_T = PerImage(seeds).randn(subject.denoiser.shape)
    x = torch.stack([x_T[:rows], *kept], dim=1)
    shown = to_uint8(x)
    sheet = Sheet(
        rows=[list(row) for row in shown],
        columns=[str(times[place]) for place in wanted],
        heads=[(0, len(wanted) - 1, "time t  →")],
    )
    return Figure(
        "reverse",
        "Reverse process: noise becomes an image",
        f"Each row is one sample, from pure noise at t = {times[0]} (left) to the finished image at t = 0 (right). "
        f"The network removes a little noise in each of {len(subject.chain)} steps; {len(wanted)} moments are shown. "
        f"Seeds {seeds[0]} to {seeds[rows - 1]}, none left out. Values beyond black and white are clipped for display. "
        "Ho et al. (2020), Algorithm 2.",
        sheet.draw,
        arrays={
            "seeds": torch.tensor(seeds[:rows]).numpy(),
            "times": torch.tensor([times[place] for place in wanted]).numpy(),
            "x_t": x.numpy(),
        },
        grids={"grid": sheet.picture()},
        frames=[grid(enlarge(to_uint8(x_T), 48)), *moving],
    )


REVERSE = Recipe(make, lambda subject: ANIMATED * len(subject.chain))
