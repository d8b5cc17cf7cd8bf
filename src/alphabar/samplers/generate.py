"""From seeds to pixels."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from alphabar.base.chunks import Chunks
from alphabar.base.errors import AlphabarWarning, ConfigError
from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage
from alphabar.model.cost import images_at_once
from alphabar.model.denoiser import Denoise, Denoiser, Estimate
from alphabar.model.variance import FixedLarge
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.driver import Frame, Sampler, trajectory

__all__ = ["finished", "frames", "generate", "in_batches", "leaves_noise"]

T = TypeVar("T")


def _labelled(denoiser: Denoiser, y: Tensor | None) -> Denoise:
    if y is None:
        return denoiser

    def denoise(x_t: Tensor, tr: Transition) -> Estimate:
        estimate: Estimate = denoiser(x_t, tr, y=y)
        return estimate

    return denoise


def leaves_noise(denoiser: Denoiser, sampler: Sampler, chain: Chain) -> bool:
    """Whether σ² = β adds noise on hops of several steps that later hops are not told of (and stays in the picture)."""
    long = any(t - s > 1 for t, s in itertools.pairwise(chain.times[:-1]))
    return long and sampler.needs_variance and isinstance(denoiser.variance, FixedLarge)


def in_batches(denoiser: Denoiser, make: Callable[[range], T], n: int, batch: int) -> list[T]:
    """What ``make`` gives for the rows 0 … n−1, in order, at most ``batch`` at a time, and as many as memory allows."""
    chunks, made = Chunks("samples", images_at_once(denoiser)), []
    for start in range(0, n, batch):
        made += chunks(make, range(start, min(n, start + batch)))
    return made


def frames(
    denoiser: Denoiser, sampler: Sampler, chain: Chain, seeds: Sequence[int], y: Tensor | None = None
) -> Iterator[Frame]:
    """The trajectory of the images with the given ``seeds``, from noise; image i depends on its seed alone.

    ``y`` int64 [B] are the labels of a network with classes. The weights decide the device.

    Raises:
        ConfigError: if ``chain`` is of another schedule than the denoiser's.
    """
    if not torch.equal(chain.schedule.alpha_bar, denoiser.schedule.alpha_bar):
        raise ConfigError("chain: is of another schedule than the denoiser; make it from denoiser.schedule")
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    rng = PerImage(seeds)
    x_T = rng.randn(denoiser.shape).to(device)
    labels = None if y is None else y.to(device)
    return trajectory(_labelled(denoiser, labels), sampler, x_T, chain, rng)


def finished(trajectory: Iterator[Frame]) -> Tensor:
    """The images at the end of a trajectory: uint8 [B, C, H, W] on the CPU."""
    x = None
    for frame in trajectory:
        x = frame.x
    assert x is not None
    return to_uint8(x).cpu()


def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    chain: Chain,
    seeds: Sequence[int],
    *,
    y: Tensor | None = None,
    batch: int = 256,
) -> Tensor:
    """One image per seed: uint8 [N, C, H, W] on the CPU, at most ``batch`` at a time; ``y`` int64 [N] are labels.

    The network is put in evaluation mode for the time of the call. Where memory may not suffice, fewer are made at a
    time. Warns where σ² = β would leave noise in the images.
    """
    if leaves_noise(denoiser, sampler, chain):
        warnings.warn(
            f"sigma^2 = beta leaves noise on a chain of {len(chain)} of {chain.schedule.T} steps: set "
            "denoiser.variance = FixedSmall(), or take the full chain or a sampler that needs no variance",
            AlphabarWarning,
            stacklevel=2,
        )
    seeds = list(seeds)
    if not seeds:
        return torch.empty((0, *denoiser.shape), dtype=torch.uint8)

    def some(rows: range) -> Tensor:
        part = slice(rows.start, rows.stop)
        return finished(frames(denoiser, sampler, chain, seeds[part], None if y is None else y[part]))

    was_training = denoiser.training
    denoiser.eval()
    try:
        return torch.cat(in_batches(denoiser, some, len(seeds), batch))
    finally:
        denoiser.train(was_training)
