"""Is a sample new, or a training image? How near it lies to one, and how near real images lie that were never seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.base.errors import DataError

__all__ = ["ENOUGH", "LEVEL", "Copies", "Nearest", "find_copies", "nearest", "nearest_rows"]

LEVEL = 0.01
ENOUGH = 50
MOST = 5000


@dataclass(frozen=True)
class Nearest:
    """For each of N images: the ``index`` of the nearest of M others, int64 [N], and its ``rmse`` on 0–255, [N]."""

    index: Tensor
    rmse: Tensor


def nearest(images: Tensor, others: Tensor) -> Nearest:
    """The nearest of ``others`` uint8 [M, C, H, W] for each of ``images`` uint8 [N, C, H, W], by Euclidean distance.

    Squared distances of 8-bit images are integers; in float64 they are exact.
    """
    index, distance = nearest_rows(images.flatten(1), others.flatten(1))
    return Nearest(index, distance / images[0].numel() ** 0.5 if len(images) else distance)


def nearest_rows(rows: Tensor, others: Tensor, *, skip_self: bool = False, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The nearest of ``others`` [M, D] for each of ``rows`` [N, D]: index int64 [N], Euclidean distance float64 [N].

    With ``skip_self`` row i of ``others`` is no neighbour of row i of ``rows``. Rows become float64 a chunk at a time:
    memory does not grow with M.
    """
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.int64)
    for first in range(0, len(rows), chunk):
        a = rows[first : first + chunk].double()
        here = slice(first, first + len(a))
        for start in range(0, len(others), chunk):
            b = others[start : start + chunk].double()
            squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
            if skip_self:
                own = torch.arange(first, first + len(a))[:, None] == torch.arange(start, start + len(b))
                squared = squared.masked_fill(own, torch.inf)
            least, place = squared.min(1)
            closer = least < best[here]
            best[here] = torch.where(closer, least, best[here])
            index[here] = torch.where(closer, place + start, index[here])
    # the pair found is compared once more without cancellation, so that equal rows are exactly 0 apart
    pairs = [rows[i : i + chunk].double() - others[index[i : i + chunk]].double() for i in range(0, len(rows), chunk)]
    return index, torch.cat([pair.norm(dim=1) for pair in pairs]) if pairs else best


@dataclass(frozen=True)
class Copies:
    """How near samples lie to training images in one space, and how near unseen images do.

    Attributes:
        index: the nearest training image of each sample, int64 [N].
        distance: how far it is, float64 [N].
        usual: the same distances of images that the model never saw, float64 [B].
        threshold: below it a sample looks copied: the 1 % quantile of ``usual`` or half its median, whichever is
            less, both without exact duplicates.
        baseline: in words, which images ``usual`` are.
    """

    index: Tensor
    distance: Tensor
    usual: Tensor
    threshold: float
    baseline: str

    @property
    def copied(self) -> Tensor:
        """Which samples look copied: nearer to a training image than ``threshold``, or equal to one; bool [N]."""
        return (self.distance < self.threshold) | (self.distance == 0)


def find_copies(samples: Tensor, train: Tensor, held_out: Tensor, *, unit: float = 1.0) -> Copies:
    """Compare ``samples`` [N, D] with ``train`` [M, D]; ``held_out`` [B, D] were drawn like ``train`` but not seen.

    The distances found are Euclidean ones times ``unit``, so that rows of bytes need not be scaled.

    With fewer than 50 held-out images the training images themselves are the baseline, each compared with the others
    (at most 5,000 of them). An unseen image that equals a training image says that the data hold duplicates, not how
    far apart different images are, so it does not count.

    Raises:
        DataError: if there are fewer than two training images.
    """
    if len(train) < 2:
        raise DataError(f"copies: got {len(train)} training images, need at least 2 to know how far apart they lie")
    index, distance = nearest_rows(samples, train)
    if len(held_out) >= ENOUGH:
        _, usual = nearest_rows(held_out, train)
        baseline = f"{len(held_out):,} held-out images"
    else:
        _, usual = nearest_rows(train[:MOST], train, skip_self=True)
        baseline = f"{len(usual):,} training images, each against the others"
    different = usual[usual > 0]
    threshold = float(torch.minimum(different.quantile(LEVEL), different.median() / 2)) if len(different) else 0.0
    return Copies(index, distance * unit, usual * unit, threshold * unit, baseline)
