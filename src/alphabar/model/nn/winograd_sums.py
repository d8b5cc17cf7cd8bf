"""The sums of Winograd's F(4×4, 3×3), made of torch's operators; ``winograd.c`` has the same in one pass each.

Tensors have their channels innermost; tiles are counted image by image, row by row. The matrices hold small numbers (at
most 8), and are applied as sums of slices, first along the rows, then along the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "POINTS",
    "TILE",
    "images_of_points",
    "kernels_of_points",
    "points_of_gradient",
    "points_of_images",
    "points_of_kernels",
    "positions",
    "tiles",
]

TILE, POINTS = 4, 6


def _to_points(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Bᵀ along one axis: six slices to six points."""
    v0, v1, v2, v3, v4, v5 = out
    torch.sub(d[4], d[2], out=v3)
    torch.sub(d[3], d[1], out=v5)  # for a moment
    torch.sub(v3, v5, alpha=2, out=v4)
    v3.add_(v5, alpha=2)
    torch.sub(d[4], d[2], alpha=4, out=v1)
    torch.sub(d[3], d[1], alpha=4, out=v5)
    torch.sub(v1, v5, out=v2)
    v1.add_(v5)
    torch.sub(d[5], d[3], alpha=5, out=v5)
    v5.add_(d[1], alpha=4)
    torch.sub(d[4], d[2], alpha=5, out=v0)
    v0.add_(d[0], alpha=4)


def _from_points(v: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """B along one axis, the transpose of :func:`_to_points`: six points to six slices."""
    d0, d1, d2, d3, d4, d5 = out
    torch.mul(v[0], 4, out=d0)
    near, far = v[2] - v[1], v[4] - v[3]
    torch.add(near, v[5], out=d1)
    torch.add(far, d1, alpha=2, out=d1)
    d1.mul_(2)
    torch.add(near, far, alpha=2, out=d3)
    d3.add_(v[5], alpha=5).neg_()
    near, far = v[1] + v[2], v[3] + v[4]
    near.add_(v[0])
    torch.add(far, near, out=d4)
    torch.add(far, near, alpha=4, out=d2)
    d2.add_(v[0]).neg_()
    d5.copy_(v[5])


def _to_positions(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Aᵀ along one axis: six points to four positions."""
    y0, y1, y2, y3 = out
    near, far = m[1] + m[2], m[3] + m[4]
    torch.add(near, far, out=y0)
    y0.add_(m[0])
    torch.add(near, far, alpha=4, out=y2)
    near, far = m[1] - m[2], m[3] - m[4]
    torch.add(near, far, alpha=2, out=y1)
    torch.add(near, far, alpha=8, out=y3)
    y3.add_(m[5])


def _from_positions(y: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """A along one axis, the transpose of :func:`_to_positions`: four positions to six points."""
    m0, m1, m2, m3, m4, m5 = out
    m0.copy_(y[0])
    m5.copy_(y[3])
    even, odd = y[0] + y[2], y[1] + y[3]
    torch.add(even, odd, out=m1)
    torch.sub(even, odd, out=m2)
    even, odd = torch.add(y[0], y[2], alpha=4), torch.add(y[1], y[3], alpha=4)
    torch.add(even, odd, alpha=2, out=m3)
    torch.sub(even, odd, alpha=2, out=m4)


def _kernel_to_points(g: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """G along one axis: three weights to six points."""
    u0, u1, u2, u3, u4, u5 = out
    torch.mul(g[0], 1 / 4, out=u0)
    torch.add(g[0], g[2], out=u4)  # for a moment, as u5
    torch.mul(g[1], -1 / 6, out=u5)
    torch.sub(u5, u4, alpha=1 / 6, out=u1)
    u5.neg_()
    torch.sub(u5, u4, alpha=1 / 6, out=u2)
    torch.add(g[0], g[2], alpha=4, out=u4)
    torch.add(u4, g[1], alpha=2, out=u3)
    u3.mul_(1 / 24)
    u4.sub_(g[1], alpha=2).mul_(1 / 24)
    u5.copy_(g[2])


def _kernel_from_points(u: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Gᵀ along one axis, the transpose of :func:`_kernel_to_points`: six points to three weights."""
    g0, g1, g2 = out
    near, far = u[1] + u[2], u[3] + u[4]
    torch.sub(far, near, out=g2)
    g2.mul_(1 / 6).add_(u[5])
    torch.mul(far, 1 / 24, out=g0)
    g0.sub_(near, alpha=1 / 6).add_(u[0], alpha=1 / 4)
    near, far = u[2] - u[1], u[3] - u[4]
    torch.add(near, far, alpha=1 / 2, out=g1)
    g1.mul_(1 / 6)


def tiles(side: int) -> int:
    """How many tiles a side of so many positions is cut into."""
    return -(-side // TILE)


def points_of_images(x: Tensor) -> Tensor:
    """Bᵀ d B of every tile: [36, n·th·tw, C] of ``x`` [n, H, W, C]."""
    n, height, width, channels = x.shape
    down, across = tiles(height), tiles(width)
    x = functional.pad(x, (0, 0, 1, TILE * across + 1 - width, 1, TILE * down + 1 - height))
    rows = x.new_empty(POINTS, n, down, x.shape[2], channels)
    _to_points([x[:, i : i + TILE * down - 3 : TILE] for i in range(POINTS)], rows.unbind(0))
    points = x.new_empty(POINTS, POINTS, n, down, across, channels)
    _to_points([rows[:, :, :, i : i + TILE * across - 3 : TILE] for i in range(POINTS)], points.unbind(1))
    return points.view(POINTS**2, -1, channels)


def positions(m: Tensor, bias: Tensor, out: Tensor) -> None:
    """Aᵀ m A and a ``bias`` [C] into ``out`` [n, H, W, C], of ``m`` [36, n·th·tw, C]."""
    n, height, width, channels = out.shape
    down, across = tiles(height), tiles(width)
    m = m.view(POINTS, POINTS, n, down, across, channels)
    rows = m.new_empty(TILE, POINTS, n, down, across, channels)
    _to_positions(m.unbind(0), rows.unbind(0))
    whole = m.new_empty(n, down, TILE, across, TILE, channels)
    _to_positions(rows.unbind(1), whole.permute(4, 2, 0, 1, 3, 5).unbind(0))
    torch.add(whole.view(n, TILE * down, TILE * across, channels)[:, :height, :width], bias, out=out)


def points_of_gradient(g: Tensor) -> Tensor:
    """A g Aᵀ: [36, n·th·tw, C] of ``g`` [n, H, W, C]."""
    n, height, width, channels = g.shape
    down, across = tiles(height), tiles(width)
    if (height, width) != (TILE * down, TILE * across):
        g = functional.pad(g, (0, 0, 0, TILE * across - width, 0, TILE * down - height))
    g = g.reshape(n, down, TILE, across, TILE, channels)
    rows = g.new_empty(POINTS, n, down, across, TILE, channels)
    _from_positions(g.unbind(2), rows.unbind(0))
    points = g.new_empty(POINTS, POINTS, n, down, across, channels)
    _from_positions(rows.unbind(4), points.unbind(1))
    return points.view(POINTS**2, -1, channels)


def _laid_out(v: Sequence[Tensor], out: Tensor) -> None:
    """Tiles of six slices each, given by points, added up where they overlap: ``out`` [tiles + 1, 4, …], all of it."""
    four = out[:-1].unbind(1)
    over = torch.empty_like(v[0]), torch.empty_like(v[0])
    _from_points(v, (*four, *over))
    out[-1].zero_()
    for slice_, more in zip(out[1:].unbind(1), over, strict=False):
        slice_.add_(more)


def images_of_points(v: Tensor, out: Tensor) -> None:
    """The sum over overlapping tiles of B v Bᵀ into ``out`` [n, H, W, C], of ``v`` [36, n·th·tw, C]."""
    n, height, width, channels = out.shape
    down, across = tiles(height), tiles(width)
    v = v.view(POINTS, POINTS, n, down, across, channels)
    rows = v.new_empty(POINTS, n, down, across + 1, TILE, channels)
    _laid_out([point.movedim(3, 0) for point in v.unbind(1)], rows.permute(3, 4, 0, 1, 2, 5))
    whole = v.new_empty(n, down + 1, TILE, across + 1, TILE, channels)
    _laid_out([point.movedim(1, 0) for point in rows.unbind(0)], whole.permute(1, 2, 0, 3, 4, 5))
    out.copy_(whole.view(n, TILE * (down + 1), TILE * (across + 1), channels)[:, 1 : height + 1, 1 : width + 1])


def points_of_kernels(weight: Tensor) -> Tensor:
    """G g Gᵀ: [36, O, C] of ``weight`` [O, C, 3, 3]."""
    rows = weight.new_empty(POINTS, 3, *weight.shape[:2])
    _kernel_to_points(weight.permute(2, 3, 0, 1).unbind(0), rows.unbind(0))
    points = weight.new_empty(POINTS, POINTS, *weight.shape[:2])
    _kernel_to_points(rows.unbind(1), points.unbind(1))
    return points.view(POINTS**2, *weight.shape[:2])


def kernels_of_points(u: Tensor) -> Tensor:
    """Gᵀ u G: [O, C, 3, 3], the weight's, of ``u`` [36, O, C]."""
    u = u.view(POINTS, POINTS, *u.shape[1:])
    rows = u.new_empty(3, *u.shape[1:])
    _kernel_from_points(u.unbind(0), rows.unbind(0))
    out = u.new_empty(u.shape[2], 3, 3, u.shape[3])
    _kernel_from_points(rows.unbind(1), out.permute(1, 2, 0, 3).unbind(1))
    return out.permute(0, 3, 1, 2)
