"""Is a sample new, or a training image? The nearest one in pixel space, and how near real unseen images come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Nearest", "nearest"]


@dataclass(frozen=True)
class Nearest:
    """For each of N images: the ``index`` of the nearest of M others, int64 [N], and its ``rmse`` on 0–255, [N]."""

    index: Tensor
    rmse: Tensor


def nearest(images: Tensor, others: Tensor, chunk: int = 4096) -> Nearest:
    """The nearest of ``others`` uint8 [M, C, H, W] for each of ``images`` uint8 [N, C, H, W], by Euclidean distance.

    Squared distances of 8-bit images are integers; in float64 they are exact.
    """
    a = images.flatten(1).double()
    best = torch.full((len(a),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(a), dtype=torch.int64)
    for start in range(0, len(others), chunk):
        b = others[start : start + chunk].flatten(1).double()
        squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
        least, place = squared.min(1)
        closer = least < best
        best = torch.where(closer, least, best)
        index = torch.where(closer, place + start, index)
    return Nearest(index, (best / a.shape[1]).sqrt())
