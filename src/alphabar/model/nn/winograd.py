"""3×3 convolutions with a quarter of the multiplications: Winograd's F(4×4, 3×3) (Lavin and Gray 2015), for CPUs.

An image is cut into tiles of 4×4 positions with a frame of one. Tiles d [6, 6] and kernels g [3, 3] are brought by
fixed matrices to where a convolution is a product element by element: y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. Over channels and
tiles that is 36 matrix products, whose work is 36/144 of the direct one's. The rest are sums. ``winograd.c`` does both
for some tiles at a time, so that only images go through memory.

The gradient of the images is a convolution again, with the kernel turned around; that of the kernel is
Gᵀ[Σ (A ∂y Aᵀ) ⊙ (Bᵀ d B)]G. The same functions up to rounding: about 2·10⁻⁶ of the size of the result in float32, where
the direct form has 10⁻⁶; what is huge, infinite or no number is felt in the whole of its tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alphabar.model.nn.plain import plain
from alphabar.model.nn.winograd_native import Winograd, winograd

__all__ = ["Conv3x3", "pays", "winograd_conv"]

TILE, POINTS = 4, 36
# what sums and transformed kernels cost, in work that is saved: fitted to docs/results/bench.md, "Operators"
SUMS, KERNELS = 18, 50


def _compiled() -> Winograd:
    found = winograd()
    assert found is not None
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        shape = len(x), len(weight), *x.shape[2:]
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        _compiled().convolve(x.permute(0, 2, 3, 1).contiguous(), weight, bias, y.permute(0, 2, 3, 1))
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        # the gradient is to be differentiated, or of several at once: by torch's own functions, which can be
        if torch.is_grad_enabled() or not torch._C._has_storage(g):
            direct, once = torch.ops.aten.convolution_backward, (1, 1)
            found: tuple[Tensor | None, Tensor | None, Tensor | None] = direct(
                g, x, weight, [len(weight)], once, once, once, False, (0, 0), 1, ctx.needs_input_grad
            )
            return found
        # what was saved may come back in another form (torch.autograd.graph.saved_tensors_hooks)
        images, g = (value.float().permute(0, 2, 3, 1).contiguous() for value in (x, g))
        weight = weight.float()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        of_x = of_weight = None
        if for_x:
            of_x = _compiled().gradient_of_images(weight, g).permute(0, 3, 1, 2)
        if for_weight:
            of_weight = _compiled().gradient_of_weight(images, g)
        return of_x, of_weight, g.sum((0, 1, 2)) if for_bias else None


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``functional.conv2d(x, weight, bias, padding=1)``, with gradients of its own, where it could be compiled.

    ``x`` float32 [B, C, H, W], best with channels innermost, ``weight`` [O, C, 3, 3], ``bias`` [O] → [B, O, H, W].
    """
    out: Tensor = _Convolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def pays(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether :func:`winograd_conv` can be used, and is faster than the direct form by a rule fitted to measurements.

    It saves multiplications in proportion to C·O·tiles, and pays for it with sums in proportion to (C + O)·tiles and
    with the transformed kernel, C·O. Where processors multiply faster than those with AVX2 do (AVX-512, bfloat16, GPUs)
    it is not known to, and not tried; nor where ``x`` is not :func:`~alphabar.model.nn.plain.plain`.
    """
    if not plain(x, weight, bias) or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    out_channels, channels = weight.shape[:2]
    if x.shape[1] != channels or bias.shape != (out_channels,):
        return False
    batch, _, height, width = x.shape
    tiles = -(-height // TILE) * -(-width // TILE)
    saved = 9 * height * width / (POINTS * tiles) - 1
    # in this order, so that nothing is compiled for a network that has no use for it
    return saved > SUMS * (1 / channels + 1 / out_channels) + KERNELS / (batch * tiles) and winograd() is not None


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a frame of zeros that keeps the size, computed in the faster of two ways."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H, W]."""
        if self.bias is not None and pays(x, self.weight, self.bias):
            return winograd_conv(x, self.weight, self.bias)
        return super().forward(x)
