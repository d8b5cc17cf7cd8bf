"""Coarse-to-fine interpolation (Fig. 9): the same two images mixed at several noise levels."""

from __future__ import annotations

import torch

from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.figures.decode import spread
from alphabar.evaluation.figures.interpolation import (
    LAMBDAS,
    Pair,
    default_pairs,
    interpolate,
    labels_between,
    pair_words,
)
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject

__all__ = ["COARSE_TO_FINE"]

ROWS = 9


def make(subject: Subject, *, pair: Pair | None = None) -> Figure:
    """A grid over t (rows, T above and 0 below) and λ (columns)."""
    pair = pair if pair is not None else default_pairs(subject, 1)[0]
    times = [subject.T - t for t in spread(range(subject.T + 1), ROWS)]
    y = labels_between(subject, pair, LAMBDAS)
    rows = [
        interpolate(subject.denoiser, subject.sampler, subject.chain, pair.a, pair.b, t, LAMBDAS, subject.seed, y)
        for t in times
    ]
    count = len(LAMBDAS)
    sheet = Sheet(
        rows=[[pair.a, *row, pair.b] for row in rows],
        columns=["image", *(f"{share:g}" for share in LAMBDAS), "image"],
        left=[f"t = {t}" for t in times],
        heads=[(1, count, "λ: share of the right image  →")],
        breaks=[0, count],
    )
    return Figure(
        "coarse_to_fine",
        "Coarse to fine: mixing at different noise levels",
        "Both outer images are noised to time t, mixed with shares 1 − λ and λ, and decoded by the reverse process. "
        f"At t = 0 (bottom) this mixes pixels; at t = {subject.T} (top) nothing of the two images is left and the row "
        "is one new sample; in between, the more noise, the coarser what is left of the two images. "
        f"{pair_words([pair])}; {len(subject.chain)} steps for the whole chain, seed {subject.seed}. "
        "Ho et al. (2020), Fig. 9.",
        sheet.draw,
        arrays={
            "times": torch.tensor(times).numpy(),
            "lambdas": torch.tensor(LAMBDAS, dtype=torch.float64).numpy(),
            "sources": torch.stack([pair.a, pair.b]).numpy(),
            "images": torch.stack(rows).numpy(),
        },
        grids={"grid": sheet.picture()},
    )


COARSE_TO_FINE = Recipe(make, lambda subject: ROWS * len(LAMBDAS) * len(subject.chain) // 2)
