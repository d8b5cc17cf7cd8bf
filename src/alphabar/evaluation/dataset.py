"""The bound of a whole set of images, in batches, with the same noise whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alphabar.base.pixels import to_model_range
from alphabar.base.rng import PerImage, derive
from alphabar.data.batch import Images
from alphabar.evaluation.likelihood import Bound, variational_bound
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.process.chain import Chain

__all__ = ["dataset_bound"]


def dataset_bound(
    denoiser: Denoiser, images: Images, chain: Chain, *, seed: int = 0, hops: int | None = None, batch: int = 64
) -> Iterator[Bound]:
    """The bound of every image of a set once, a :class:`Bound` per batch; join them with ``Bound.cat``.

    The network must be in evaluation mode. Labels are given to a network with classes.
    """
    device = next(denoiser.parameters()).device
    classes = unet(denoiser).config.num_classes
    for start in range(0, len(images), batch):
        indices = range(start, min(start + batch, len(images)))
        some = images.gather(torch.arange(indices.start, indices.stop).numpy())
        labels = {"y": some.y.to(device)} if classes and some.y is not None else {}
        x0 = to_model_range(some.x, device)
        yield variational_bound(
            denoiser, x0, chain, PerImage([derive(seed, "bound", index) for index in indices]), hops=hops, **labels
        )
