"""The kernel distance between two sets of features: KID when the features are Inception's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.base.errors import DataError

__all__ = ["KernelDistance", "kernel_distance", "within"]

GROUPS = 10
ROWS = 2048  # a block of kernels is at most ROWS × ROWS

Pieces = list[tuple[int, Tensor]]


class KernelDistance(NamedTuple):
    """An unbiased estimate, which may be negative, and its standard error (NaN where a set has two images)."""

    value: float
    standard_error: float


def kernel_distance(a: Tensor, b: Tensor, within_b: Callable[[int], Tensor] | None = None) -> KernelDistance:
    """MMD² between ``a`` [N, D] and ``b`` [M, D], any float dtype, with the kernel k(x, y) = (x·y / D + 1)³; no unit.

    Source: Bińkowski et al. 2018, section 4; Gretton et al. 2012, Eq. 3. ``value`` is the U-statistic
    Σ_{i≠j} k(a_i, a_j) / N(N−1) + Σ_{i≠j} k(b_i, b_j) / M(M−1) − 2 Σ_{ij} k(a_i, b_j) / NM over all pairs, in float64:
    its expectation is 0 for two sets of one distribution, whatever N and M.

    ``standard_error`` is the delete-a-group jackknife's over ``GROUPS`` consecutive groups of each set (as many as the
    smaller set has images, if these are fewer), so the order of the images must mean nothing: shuffle a set that comes
    sorted. For two sets of one distribution it errs on the large side, by about one half.

    ``within_b`` gives :func:`within` of ``b`` for a number of groups, where somebody has kept it: of many real images
    it takes far longer than all the rest.

    Raises:
        DataError: if a set has fewer than two images, the sets differ in D, or a value is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(
            f"kernel distance: got features of shape {list(a.shape)} and {list(b.shape)}, need [N, D] and [M, D]; "
            "use the same network for both sets"
        )
    if min(len(a), len(b)) < 2:
        raise DataError(f"kernel distance: got {len(a)} and {len(b)} images, need 2 or more of each; give more images")
    groups = min(GROUPS, len(a), len(b))
    in_b = within(b, groups) if within_b is None else within_b(groups)
    sums = within(a, groups), in_b, _between(_pieces(a, groups), _pieces(b, groups), groups)
    aa, bb, ab = (table.sum() for table in sums)
    value = _estimate(aa, bb, ab, len(a), len(b))
    if not value.isfinite():
        raise DataError(
            "kernel distance: got features that are not finite, or whose cubes are not; "
            "look for broken images or weights"
        )
    return KernelDistance(float(value), _jackknife(sums, len(a), len(b)))


def _pieces(x: Tensor, groups: int) -> Pieces:
    """(group, some of its rows) for all rows of ``x``."""
    return [
        (g, group[start : start + ROWS])
        for g, group in enumerate(x.tensor_split(groups))
        for start in range(0, len(group), ROWS)
    ]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j) of [n, D] and [m, D]: float64 [n, m]."""
    return (x.double() @ y.double().T).div_(x.shape[1]).add_(1).pow_(3)


def within(features: Tensor, groups: int) -> Tensor:
    """Σ_{i≠j} k(x_i, x_j) over the rows x of [N, D], i in the g-th and j in the h-th of so many consecutive groups.

    float64 [groups, groups]; the kernel is that of :func:`kernel_distance`.
    """
    pieces = _pieces(features, groups)
    table = torch.zeros((groups, groups), dtype=torch.float64)
    for place, (g, x) in enumerate(pieces):
        table[g, g] += _kernel(x, x).fill_diagonal_(0).sum()
        for h, y in pieces[:place]:
            both = _kernel(x, y).sum()
            table[g, h] += both
            table[h, g] += both
    return table


def _between(of_a: Pieces, of_b: Pieces, groups: int) -> Tensor:
    """Σ k(a_i, b_j) with i in group g and j in group h: float64 [groups, groups]."""
    table = torch.zeros((groups, groups), dtype=torch.float64)
    for g, x in of_a:
        for h, y in of_b:
            table[g, h] += _kernel(x, y).sum()
    return table


def _estimate(aa: Tensor, bb: Tensor, ab: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
    """The U-statistic from its three sums and the sizes of the sets, elementwise."""
    return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)


def _jackknife(sums: tuple[Tensor, Tensor, Tensor], n: int, m: int) -> float:
    """√((G−1)/G Σ_g (θ_g − θ̄)²), θ_g being the estimate without the g-th group of either set."""
    groups = len(sums[0])
    if groups < 3:
        return math.nan
    aa, bb, ab = (t.sum() - t.sum(0) - t.sum(1) + t.diagonal() for t in sums)
    left_a, left_b = (size - _sizes(size, groups) for size in (n, m))
    estimates = _estimate(aa, bb, ab, left_a, left_b)
    return float((estimates.var(unbiased=False) * (groups - 1)).sqrt())


def _sizes(n: int, groups: int) -> Tensor:
    """How many rows ``tensor_split`` gives to each group."""
    return torch.tensor([len(part) for part in torch.arange(n).tensor_split(groups)])
