"""The bound of a whole set of images, in batches, with the same noise whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alphabar.base.pixels import to_model_range
from alphabar.base.rng import Rng, derive
from alphabar.data.batch import Images
from alphabar.evaluation.likelihood import Bound, variational_bound
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain

__all__ = ["dataset_bound"]


class _PerIndex(Rng):
    """One stream per image of the set, keyed by its index: its bound does not depend on its neighbours."""

    def __init__(self, seed: int, indices: range) -> None:
        self.streams = [Rng(derive(seed, "bound", index)) for index in indices]

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and device of ``x`` [B, ...]."""
        return torch.stack([stream.randn(x.shape[1:], x.dtype) for stream in self.streams]).to(x.device)

    def rand(self, shape: list[int]) -> Tensor:  # type: ignore[override]
        """Uniform float64 numbers [B, ...] in [0, 1)."""
        return torch.stack([stream.rand(shape[1:]) for stream in self.streams])


def dataset_bound(
    denoiser: Denoiser, images: Images, chain: Chain, *, seed: int = 0, hops: int | None = None, batch: int = 64
) -> Iterator[Bound]:
    """The bound of every image of a set once, a :class:`Bound` per batch; join them with ``Bound.cat``.

    The network must be in evaluation mode. Labels are given to a network with classes.
    """
    device = next(denoiser.parameters()).device
    classes = denoiser.net.config.num_classes  # type: ignore[union-attr]
    for start in range(0, len(images), batch):
        indices = range(start, min(start + batch, len(images)))
        some = images.gather(torch.arange(indices.start, indices.stop).numpy())
        labels = {"y": some.y.to(device)} if classes and some.y is not None else {}
        x0 = to_model_range(some.x, device)
        yield variational_bound(denoiser, x0, chain, _PerIndex(seed, indices), hops=hops, **labels)
