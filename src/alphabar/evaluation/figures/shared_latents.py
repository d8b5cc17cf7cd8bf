"""Samples that share a latent (Fig. 7): what is decided at time t, and what is left open."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage, derive
from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.figures.decode import decode
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain
from alphabar.samplers.driver import Sampler
from alphabar.samplers.generate import frames

__all__ = ["SHARED_LATENTS", "complete"]

PARTS = (1.0, 0.75, 0.5, 0.25, 0.125)
COLUMNS = 9


def complete(
    denoiser: Denoiser,
    sampler: Sampler,
    chain: Chain,
    x_t: Tensor,
    t: int,
    n: int,
    seed: int,
    y: Tensor | None = None,
) -> Tensor:
    """``n`` images uint8 [n, C, H, W] that all begin at the one latent ``x_t`` [C, H, W] and differ in later noise.

    ``y`` int64 [n] are the labels of a network with classes.
    """
    latents = x_t[None].expand(n, *x_t.shape).contiguous()
    rng = PerImage([derive(seed, "shared", t, i) for i in range(n)])
    return to_uint8(decode(denoiser, sampler, chain, latents, t, rng, y))


def make(subject: Subject) -> Figure:
    """One sample's latents at several times, each completed several times."""
    seeds = subject.seeds(1)
    chain = subject.chain
    times = sorted({min(chain.times[:-1], key=lambda t: abs(t - part * subject.T)) for part in PARTS}, reverse=True)
    label = subject.labels(seeds)
    latents: dict[int, Tensor] = {}
    x = None
    for frame in frames(subject.denoiser, subject.sampler, chain, seeds, label):
        x = frame.x
        if frame.t in times:
            latents[frame.t] = frame.x[0].cpu()
    assert x is not None
    own = to_uint8(x[0].cpu())
    latents[chain.times[0]] = PerImage(seeds).randn(subject.denoiser.shape)[0]
    labels = None if label is None else label.expand(COLUMNS)
    images = {
        t: complete(subject.denoiser, subject.sampler, chain, latents[t], t, COLUMNS, subject.seed, labels)
        for t in times
    }
    sheet = Sheet(
        rows=[[to_uint8(latents[t]), *images[t]] for t in times],
        columns=["shared xₜ"],
        left=[f"t = {t}" for t in times],
        heads=[(1, COLUMNS, "images that all begin at this xₜ, with different noise afterwards")],
        breaks=[0],
    )
    return Figure(
        "shared_latents",
        "Images that share a latent",
        "Left: the noisy image xₜ of one sample at time t. Right of it: images that the reverse process makes from "
        "this same xₜ with different noise in the steps that are left. From early latents (large t) different images "
        f"come; from late ones (small t) only details differ. {len(chain)} steps for the whole chain, seed {seeds[0]}. "
        "Ho et al. (2020), Fig. 7.",
        sheet.draw,
        arrays={
            "times": torch.tensor(times).numpy(),
            "x_t": torch.stack([latents[t] for t in times]).numpy(),
            "images": torch.stack([images[t] for t in times]).numpy(),
            "own_end": own.numpy(),
        },
        grids={"grid": sheet.picture()},
    )


SHARED_LATENTS = Recipe(make, lambda subject: round(len(subject.chain) * (1 + COLUMNS * sum(PARTS))))
