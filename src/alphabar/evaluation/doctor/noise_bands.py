"""The error of a denoiser in bands of t, at noise that never changes, on images it has seen and on others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from alphabar.base.chunks import Chunks
from alphabar.base.pixels import to_model_range
from alphabar.base.rng import stream
from alphabar.data.batch import Images
from alphabar.evaluation.doctor.pixel_facts import Measured
from alphabar.model.cost import images_at_once
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.process.chain import Chain
from alphabar.process.equations import q_sample

__all__ = ["BANDS", "Band", "band_errors", "guess_errors"]

BANDS = 8
LEAST_DRAWS = 32


@dataclass(frozen=True)
class Band:
    """The mean square of ε − ε̂ per dimension for the times ``first`` … ``last``."""

    first: int
    last: int
    error: Measured


def bands_of(T: int) -> list[tuple[int, int]]:
    """(first, last) time of up to eight equal stretches of 1 … T."""
    count = min(BANDS, T)
    return [(T * k // count + 1, T * (k + 1) // count) for k in range(count)]


@torch.no_grad()
def band_errors(denoiser: Denoiser, images: Images, most: int) -> list[Band]:
    """The error of ``denoiser`` on at most ``most`` of ``images`` in each band.

    The i-th image has the same t and ε for every denoiser and every set. Of few images each is used more than once,
    and the standard error is still over images.
    """
    n = min(most, len(images))
    draws = max(n, min(most, LEAST_DRAWS))
    rows = np.arange(draws) % n
    batch = images.gather(rows)
    device = next(denoiser.parameters()).device
    x0 = to_model_range(batch.x, device)
    labels = {"y": batch.y.to(device)} if unet(denoiser).config.num_classes and batch.y is not None else {}
    chain = Chain.full(denoiser.schedule)
    chunks, found = Chunks("doctor", images_at_once(denoiser)), []

    def errors(x0: Tensor, eps: Tensor, t: Tensor, rows: range) -> Tensor:
        part = slice(rows.start, rows.stop)
        tr = chain.at(t[part])
        est = denoiser(q_sample(x0[part], eps[part], tr.abar_t), tr, **{key: y[part] for key, y in labels.items()})
        guess = denoiser.prediction.eps(est.out, est.x_t, tr)
        return (guess - eps[part]).double().square().flatten(1).mean(1).cpu()

    for number, (first, last) in enumerate(bands_of(denoiser.schedule.T)):
        noise = stream(0, "bands", number)
        t = first + (noise.rand([draws]) * (last - first + 1)).long().clamp(max=last - first)
        eps = noise.randn_like(x0)
        of_images = torch.cat(chunks(partial(errors, x0, eps, t), range(draws)))
        found.append(Band(first, last, _over_images(of_images, torch.from_numpy(rows), n)))
    return found


def _over_images(errors: Tensor, rows: Tensor, n: int) -> Measured:
    sums = torch.zeros(n, dtype=errors.dtype).index_add(0, rows, errors)
    means = sums / torch.bincount(rows, minlength=n)
    return Measured(float(means.mean()), float(means.std() / n**0.5) if n > 1 else float("inf"))


def guess_errors(denoiser: Denoiser, images: Images, most: int = 512) -> list[float]:
    """The same error of the best guess that knows only each pixel's mean and variance: what any training must beat.

    For x_0 ~ N(m, s²) the posterior variance of ε given x_t is ᾱ s²/(ᾱ s² + 1 − ᾱ).
    """
    x0 = to_model_range(images.gather(np.arange(min(most, len(images)))).x).double()
    variance = x0.var(0, unbiased=False).flatten()
    abar = denoiser.schedule.alpha_bar
    errors = []
    for first, last in bands_of(denoiser.schedule.T):
        signal = abar[first : last + 1, None] * variance
        errors.append(float((signal / (signal + 1 - abar[first : last + 1, None])).mean()))
    return errors
