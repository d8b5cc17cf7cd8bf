"""The bound of a whole set of images, in batches, with the same noise whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from alphabar.base.pixels import to_model_range
from alphabar.base.rng import PerImage, derive
from alphabar.data.batch import Images
from alphabar.data.order import permutation
from alphabar.evaluation.hops import HopPlan
from alphabar.evaluation.likelihood import Bound, variational_bound
from alphabar.evaluation.pilot import importance_plan
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.process.chain import Chain

__all__ = ["batch_bound", "dataset_bound", "dataset_plan", "fixed_subset"]

PILOT_IMAGES = 16


def fixed_subset(images: Images, n: int | None) -> Images:
    """``n`` of ``images`` at random, always the same: files often come sorted by class. All of them where n is None.

    Those of a smaller n are the first of those of a larger one.
    """
    if n is None or n >= len(images):
        return images
    return images.subset(permutation(len(images), "evaluate")[:n])


def dataset_bound(
    denoiser: Denoiser,
    images: Images,
    chain: Chain,
    *,
    seed: int = 0,
    hops: int | HopPlan | None = None,
    batch: int = 64,
) -> Iterator[Bound]:
    """The bound of every image of a set once, a :class:`Bound` per batch; join them with ``Bound.cat``.

    The network must be in evaluation mode. Labels are given to a network with classes.
    """
    for start in range(0, len(images), batch):
        yield batch_bound(denoiser, images, range(start, min(start + batch, len(images))), chain, seed=seed, hops=hops)


def batch_bound(
    denoiser: Denoiser,
    images: Images,
    rows: Sequence[int],
    chain: Chain,
    *,
    seed: int,
    hops: int | HopPlan | None,
) -> Bound:
    """The bound of the images at ``rows``; the noise of each depends on (seed, row) alone."""
    x0, labels = _model_input(denoiser, images, rows)
    rng = PerImage([derive(seed, "bound", row) for row in rows])
    return variational_bound(denoiser, x0, chain, rng, hops=hops, **labels)


def dataset_plan(denoiser: Denoiser, images: Images, chain: Chain, calls: int, *, seed: int) -> HopPlan:
    """:func:`~.pilot.importance_plan` from a few images of a set, drawn at random, with noise of its own."""
    rows = permutation(len(images), "pilot")[:PILOT_IMAGES].tolist()
    x0, labels = _model_input(denoiser, images, rows)
    rng = PerImage([derive(seed, "pilot", row) for row in rows])
    return importance_plan(denoiser, x0, chain, calls, rng, **labels)


def _model_input(denoiser: Denoiser, images: Images, rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    device = next(denoiser.parameters()).device
    some = images.gather(np.array(rows, dtype=np.int64))
    labels = {"y": some.y.to(device)} if unet(denoiser).config.num_classes and some.y is not None else {}
    return to_model_range(some.x, device), labels
