"""3×3 convolutions with a quarter of the multiplications: Winograd's F(4×4, 3×3) (Lavin and Gray 2015), for CPUs.

An image is cut into tiles of 4×4 positions with a frame of one. Tiles d [6, 6] and kernels g [3, 3] are brought by
fixed matrices to where a convolution is a product element by element: y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Over channels and
tiles that is 36 matrix products, whose work is 36/144 of the direct one's. The rest are sums, made by a few lines of C
where there is a compiler, else of torch's operators.

The same function up to rounding: about 2·10⁻⁶ of the size of the result in float32, where the direct form has 10⁻⁶.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from alphabar.model.nn import winograd_sums
from alphabar.model.nn.winograd_native import Native, native_sums
from alphabar.model.nn.winograd_sums import POINTS, tiles

__all__ = ["Conv3x3", "pays", "winograd_conv"]


class _Costs(NamedTuple):
    """What sums and transformed kernels cost, in work that is saved."""

    sums: int
    sums_training: int
    kernels: int


# fitted to docs/results/bench.md, "Convolutions"
COSTS, COSTS_NATIVE = _Costs(180, 130, 90), _Costs(40, 40, 42)
FEW, CHUNK = 2**20, 8 * 2**20  # bytes of a set of tiles that are worked on at once: more gain nothing, and take memory


def _parts(x: Tensor, out_channels: int, channels: int) -> Iterator[slice]:
    """The images of ``x`` [n, H, W, C] that are worked on at once: their tiles take about as much as the kernels do.

    Fewer would have the kernels come from memory more often, more would come from there themselves.
    """
    point = 4 * POINTS**2
    room = min(max(FEW, point * out_channels * channels), CHUNK)
    each = point * tiles(x.shape[1]) * tiles(x.shape[2]) * max(out_channels, channels)
    several = max(1, room // each)
    return (slice(start, start + several) for start in range(0, len(x), several))


def _sums(x: Tensor) -> ModuleType | Native:
    """What makes the sums of such numbers."""
    fast = native_sums() if x.dtype == torch.float32 and x.device.type == "cpu" else None
    return winograd_sums if fast is None else fast


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        sums, images = _sums(x), x.permute(0, 2, 3, 1)
        kernel = sums.points_of_kernels(weight).transpose(1, 2)
        out = x.new_empty(*images.shape[:3], len(weight))
        for part in _parts(images, *weight.shape[:2]):
            sums.positions(torch.bmm(sums.points_of_images(images[part]), kernel), bias, out[part])
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
        sums, images, g = _sums(x), x.permute(0, 2, 3, 1), g.permute(0, 2, 3, 1)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        kernel = sums.points_of_kernels(weight)
        of_images, of_kernel = images.new_empty(images.shape), torch.zeros_like(kernel)
        for part in _parts(images, *weight.shape[:2]):
            m = sums.points_of_gradient(g[part])
            if for_x:
                sums.images_of_points(torch.bmm(m, kernel), of_images[part])
            if for_weight:
                of_kernel.baddbmm_(m.transpose(1, 2), sums.points_of_images(images[part]))
        return (
            of_images.permute(0, 3, 1, 2) if for_x else None,
            sums.kernels_of_points(of_kernel) if for_weight else None,
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
    each = tiles(height) * tiles(width)
    saved = 9 * height * width / (POINTS**2 * each) - 1

    def more_than(costs: _Costs) -> bool:
        sums = costs.sums_training if torch.is_grad_enabled() else costs.sums
        return saved > sums * (1 / channels + 1 / out_channels) + costs.kernels / (batch * each)

    # in this order, so that nothing is compiled for a network that has no use for it
    return more_than(COSTS_NATIVE) and (native_sums() is not None or more_than(COSTS))


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a frame of zeros that keeps the size, computed in the faster of two ways."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H, W]."""
        if self.bias is not None and pays(x, self.weight):
            return winograd_conv(x, self.weight, self.bias)
        return super().forward(x)
