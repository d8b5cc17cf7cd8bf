"""Progressive generation (Fig. 6): what the network expects the image to be, while it is still noise."""

from __future__ import annotations

import torch

from alphabar.base.pixels import to_uint8
from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.samplers.generate import frames

__all__ = ["PROGRESSIVE"]

ROWS = 5


def make(subject: Subject, *, columns: int = 9) -> Figure:
    """x̂_0 of some samples at times spread from T to the last one above 0, and the samples themselves."""
    seeds = subject.seeds(ROWS)
    times = subject.chain.times[:-1]
    wanted = spread(times, columns)
    kept, x = [], None
    for place, frame in enumerate(
        frames(subject.denoiser, subject.sampler, subject.chain, seeds, subject.labels(seeds))
    ):
        x = frame.x
        if place in wanted:
            kept.append(frame.x0.cpu())
    assert x is not None
    x0_hat, x0 = torch.stack(kept, dim=1), x.cpu()
    shown = to_uint8(torch.cat([x0_hat, x0[:, None]], dim=1))
    count = len(wanted)
    sheet = Sheet(
        rows=[list(row) for row in shown],
        columns=[*(str(times[place]) for place in wanted), "sample"],
        heads=[(0, count - 1, "the network's estimate of the finished image, made at time t  →")],
        breaks=[count - 1],
    )
    return Figure(
        "progressive",
        "Progressive generation: what is decided when",
        "Each row is one sample. Column t shows the finished image that the network expects when it sees the noisy "
        f"image of time t (t = {times[0]} is pure noise); on the right the sample that it ends with. Large features "
        f"appear first and details last. {len(subject.chain)} steps, seeds {seeds[0]} to {seeds[-1]}, none left out. "
        "Ho et al. (2020), Section 4.3, Fig. 6.",
        sheet.draw,
        arrays={
            "seeds": torch.tensor(seeds).numpy(),
            "times": torch.tensor([times[place] for place in wanted]).numpy(),
            "x0_hat": x0_hat.numpy(),
            "samples": to_uint8(x0).numpy(),
        },
        grids={"grid": sheet.picture()},
    )


PROGRESSIVE = Recipe(make, lambda subject: ROWS * len(subject.chain))
