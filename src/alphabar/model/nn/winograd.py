"""3×3 convolutions with a quarter of the multiplications: Winograd's F(4×4, 3×3) (Lavin and Gray 2015), for CPUs.

An image is cut into tiles of 4×4 positions with a frame of one. Tiles d [6, 6] and kernels g [3, 3] are brought by
fixed matrices to where a convolution is a product element by element: y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Over channels and
tiles that is 36 matrix products, whose work is 36/144 of the direct one's. The matrices hold small numbers (at most 8),
and are applied as sums of slices, first along the rows, then along the columns.

The same function up to rounding: about 2·10⁻⁶ of the size of the result in float32, where the direct form has 10⁻⁶.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

__all__ = ["Conv3x3", "pays", "winograd_conv"]

TILE, POINTS = 4, 6
# what sums and transformed kernels cost, in work that is saved: fitted to docs/results/bench.md, "Convolutions"
SUMS, SUMS_TRAINING, KERNELS = 180, 130, 90
CHUNK = 8 * 2**20  # bytes of a set of tiles that are worked on at once: more gain nothing, and take memory


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


def _tiles(side: int) -> int:
    return -(-side // TILE)


def _points(x: Tensor) -> Tensor:
    """Bᵀ d B of every tile: [36, n·th·tw, C] of ``x`` [n, H, W, C]."""
    n, height, width, channels = x.shape
    down, across = _tiles(height), _tiles(width)
    x = functional.pad(x, (0, 0, 1, TILE * across + 1 - width, 1, TILE * down + 1 - height))
    rows = x.new_empty(POINTS, n, down, x.shape[2], channels)
    _to_points([x[:, i : i + TILE * down - 3 : TILE] for i in range(POINTS)], rows.unbind(0))
    points = x.new_empty(POINTS, POINTS, n, down, across, channels)
    _to_points([rows[:, :, :, i : i + TILE * across - 3 : TILE] for i in range(POINTS)], points.unbind(1))
    return points.view(POINTS**2, -1, channels)


def _positions(m: Tensor, shape: Sequence[int]) -> Tensor:
    """Aᵀ m A: [n, H, W, C], the ``shape``, of ``m`` [36, n·th·tw, C]."""
    n, height, width, channels = shape
    down, across = _tiles(height), _tiles(width)
    m = m.view(POINTS, POINTS, n, down, across, channels)
    rows = m.new_empty(TILE, POINTS, n, down, across, channels)
    _to_positions(m.unbind(0), rows.unbind(0))
    out = m.new_empty(n, down, TILE, across, TILE, channels)
    _to_positions(rows.unbind(1), out.permute(4, 2, 0, 1, 3, 5).unbind(0))
    return out.view(n, TILE * down, TILE * across, channels)[:, :height, :width]


def _points_of_gradient(g: Tensor) -> Tensor:
    """A g Aᵀ: [36, n·th·tw, C] of ``g`` [n, H, W, C]."""
    n, height, width, channels = g.shape
    down, across = _tiles(height), _tiles(width)
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


def _gradient_of_input(v: Tensor, shape: Sequence[int]) -> Tensor:
    """The sum over overlapping tiles of B v Bᵀ: [n, H, W, C], the ``shape``, of ``v`` [36, n·th·tw, C]."""
    n, height, width, channels = shape
    down, across = _tiles(height), _tiles(width)
    v = v.view(POINTS, POINTS, n, down, across, channels)
    rows = v.new_empty(POINTS, n, down, across + 1, TILE, channels)
    _laid_out([point.movedim(3, 0) for point in v.unbind(1)], rows.permute(3, 4, 0, 1, 2, 5))
    out = v.new_empty(n, down + 1, TILE, across + 1, TILE, channels)
    _laid_out([point.movedim(1, 0) for point in rows.unbind(0)], out.permute(1, 2, 0, 3, 4, 5))
    return out.view(n, TILE * (down + 1), TILE * (across + 1), channels)[:, 1 : height + 1, 1 : width + 1]


def _kernel_points(weight: Tensor) -> Tensor:
    """G g Gᵀ: [36, O, C] of ``weight`` [O, C, 3, 3]."""
    rows = weight.new_empty(POINTS, 3, *weight.shape[:2])
    _kernel_to_points(weight.permute(2, 3, 0, 1).unbind(0), rows.unbind(0))
    points = weight.new_empty(POINTS, POINTS, *weight.shape[:2])
    _kernel_to_points(rows.unbind(1), points.unbind(1))
    return points.view(POINTS**2, *weight.shape[:2])


def _gradient_of_kernel(u: Tensor) -> Tensor:
    """Gᵀ u G: [O, C, 3, 3], the weight's, of ``u`` [36, O, C]."""
    u = u.view(POINTS, POINTS, *u.shape[1:])
    rows = u.new_empty(3, *u.shape[1:])
    _kernel_from_points(u.unbind(0), rows.unbind(0))
    out = u.new_empty(u.shape[2], 3, 3, u.shape[3])
    _kernel_from_points(rows.unbind(1), out.permute(1, 2, 0, 3).unbind(1))
    return out.permute(0, 3, 1, 2)


def _parts(x: Tensor, *channels: int) -> Iterator[slice]:
    """The images of ``x`` [n, H, W, C], as many at once as fit in ``CHUNK``."""
    each = 4 * POINTS**2 * _tiles(x.shape[1]) * _tiles(x.shape[2]) * max(channels)
    several = max(1, CHUNK // each)
    return (slice(start, start + several) for start in range(0, len(x), several))


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        images, kernel = x.permute(0, 2, 3, 1), _kernel_points(weight)
        out = x.new_empty(*images.shape[:3], len(weight))
        for part in _parts(images, *weight.shape[:2]):
            positions = _positions(torch.bmm(_points(images[part]), kernel.transpose(1, 2)), out[part].shape)
            torch.add(positions, bias, out=out[part])
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated: by torch's own functions, which are
            direct, once = torch.ops.aten.convolution_backward, (1, 1)
            found: tuple[Tensor | None, Tensor | None, Tensor | None] = direct(
                g, x, weight, [len(weight)], once, once, once, False, (0, 0), 1, ctx.needs_input_grad
            )
            return found
        images, g = x.permute(0, 2, 3, 1), g.permute(0, 2, 3, 1)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        kernel = _kernel_points(weight)
        of_images, of_kernel = torch.empty_like(images), torch.zeros_like(kernel)
        for part in _parts(images, *weight.shape[:2]):
            m = _points_of_gradient(g[part])
            if for_x:
                of_images[part] = _gradient_of_input(torch.bmm(m, kernel), images[part].shape)
            if for_weight:
                of_kernel.baddbmm_(m.transpose(1, 2), _points(images[part]))
        return (
            of_images.permute(0, 3, 1, 2) if for_x else None,
            _gradient_of_kernel(of_kernel) if for_weight else None,
            g.sum((0, 1, 2)) if for_bias else None,
        )


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``functional.conv2d(x, weight, bias, padding=1)``, with gradients of its own.

    ``x`` float32 [B, C, H, W], best with channels innermost, ``weight`` [O, C, 3, 3], ``bias`` [O] → [B, O, H, W].
    """
    out: Tensor = _Winograd.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`winograd_conv` is faster than the direct form, by a rule fitted to measurements.

    It saves multiplications in proportion to C·O·tiles, and pays for it with sums in proportion to (C + O)·tiles and
    with the transformed kernel, C·O. Where processors multiply faster than those with AVX2 do (AVX-512, bfloat16, GPUs)
    it is not known to, and not tried; nor under ``torch.compile``, which has better things to do with sums, nor where
    ``torch.func`` or forward-mode differentiation needs to see inside.
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.backends.cpu.get_cpu_capability() != "AVX2"
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return False
    out_channels, channels = weight.shape[:2]
    batch, _, height, width = x.shape
    tiles = _tiles(height) * _tiles(width)
    saved = 9 * height * width / (POINTS**2 * tiles) - 1
    sums = SUMS_TRAINING if torch.is_grad_enabled() else SUMS
    return saved > sums * (1 / channels + 1 / out_channels) + KERNELS / (batch * tiles)


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a frame of zeros that keeps the size, computed in the faster of two ways."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H, W]."""
        if self.bias is not None and pays(x, self.weight):
            return winograd_conv(x, self.weight, self.bias)
        return super().forward(x)
