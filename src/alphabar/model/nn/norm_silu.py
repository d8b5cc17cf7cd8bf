"""SiLU(GroupNorm(x + shift)) and its gradients in two passes over an image each, by ``norm_silu.c``.

Of torch's operators it is one for the sum, two or more for the norm (Wu and He 2018) and one for SiLU, each of which
goes through memory, and as many again backward. Here the second pass finds an image of usual size still near, only x is
kept for the gradient, and the gradient of the norm is that of y = SiLU(z), z = γ x̂ + β, x̂ = (x − μ) r:

    ∂z = ∂y σ(z) (1 + z (1 − σ(z))),   ∂x = r (γ ∂z − mean(γ ∂z) − x̂ mean(γ ∂z x̂)),   means over a group.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.base.native import native
from alphabar.model.nn.plain import plain, unwatched

__all__ = ["norm_silu", "norm_silu_library"]

WIDE = 8  # channels that are worked on at once
_Count, _Memory = ctypes.c_ssize_t, ctypes.c_void_p


class _Norm(ctypes.Structure):
    """``norm`` of norm_silu.c."""

    _fields_ = (
        *((name, _Count) for name in ("n", "positions", "channels", "groups", "shift_apart")),
        *((name, _Memory) for name in ("weight", "bias", "shift", "mean", "rate")),
    )


@functools.cache
def norm_silu_library() -> ctypes.CDLL | None:
    """The functions of ``norm_silu.c``, or None where they cannot be compiled."""
    library = native(Path(__file__).with_suffix(".c"))
    if library is not None:
        split = [_Count, ctypes.c_int]
        library.norm_silu.argtypes = [ctypes.POINTER(_Norm), ctypes.c_double, *[_Memory] * 3, *split]
        library.norm_silu_gradient.argtypes = [ctypes.POINTER(_Norm), *[_Memory] * 7, *split]
        library.norm_silu.restype = library.norm_silu_gradient.restype = None
    return library


def _split(batch: int, channels: int, groups: int) -> tuple[int, int]:
    """In how many parts the channels of an image are worked on, and by how many threads."""
    threads = torch.get_num_threads()
    most = channels // math.lcm(channels // groups, WIDE)
    fitting = (parts for parts in range(1, most + 1) if most % parts == 0 and batch * parts >= threads)
    return next(fitting, most), threads


def _described(x: Tensor, groups: int, weight: Tensor, bias: Tensor, shift: Tensor | None, *stats: Tensor) -> _Norm:
    batch, channels, height, width = x.shape
    apart = 0 if shift is None or len(shift) == 1 else channels
    memory = (None if value is None else value.data_ptr() for value in (weight, bias, shift, *stats))
    return _Norm(batch, height * width, channels, groups, apart, *memory)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, eps: float
    ) -> Tensor:
        library = norm_silu_library()
        assert library is not None
        mean, rate = (x.new_empty(x.shape[:2]) for _ in range(2))
        y, room = torch.empty_like(x), x.new_empty(len(x), 2, x.shape[1], dtype=torch.float64)
        norm = _described(x, groups, weight, bias, shift, mean, rate)
        memory = (value.data_ptr() for value in (x, y, room))
        library.norm_silu(norm, eps, *memory, *_split(len(x), x.shape[1], groups))
        ctx.save_for_backward(x, weight, bias, shift, mean, rate)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, shift, mean, rate = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated: by torch's own functions, which are
            # of each by itself, whatever one has to do with another
            x, weight, bias = (value.view_as(value) for value in (x, weight, bias))
            shift = None if shift is None else shift.view_as(shift)
            inputs = [x, weight, bias, shift]
            wanted = [value for value, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
            y = _by_torch(x, weight, bias, shift, ctx.groups, ctx.eps)
            found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None, None
        library = norm_silu_library()
        assert library is not None
        # what was saved may come back in another form (torch.autograd.graph.saved_tensors_hooks)
        x, g = (value.float().contiguous(memory_format=torch.channels_last) for value in (x, g))
        weight, bias, mean, rate = (value.float().contiguous() for value in (weight, bias, mean, rate))
        of_x = torch.empty_like(x)
        of_weight, of_bias, of_shift = (x.new_empty(x.shape[:2]) for _ in range(3))
        room = x.new_empty(len(x), 2, x.shape[1])
        norm = _described(x, ctx.groups, weight, bias, shift, mean, rate)
        memory = (value.data_ptr() for value in (x, g, of_x, of_weight, of_bias, of_shift, room))
        library.norm_silu_gradient(norm, *memory, *_split(len(x), x.shape[1], ctx.groups))
        if shift is not None and len(shift) == 1:
            of_shift = of_shift.sum(0, keepdim=True)
        return of_x, of_weight.sum(0), of_bias.sum(0), None if shift is None else of_shift, None, None


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, groups: int, eps: float) -> Tensor:
    shifted = x if shift is None else x + shift[:, :, None, None]
    return functional.silu(functional.group_norm(shifted, groups, weight, bias, eps))


def _fits(norm: nn.Module, act: nn.Module, x: Tensor, shift: Tensor | None) -> TypeGuard[nn.GroupNorm]:
    """Whether this is what the compiled form computes: nothing else may reach it, since it looks at no size."""
    if not (unwatched(norm, nn.GroupNorm) and unwatched(act, nn.SiLU) and isinstance(norm, nn.GroupNorm)):
        return False
    if norm.weight is None or norm.bias is None:
        return False
    per_channel = [norm.weight, norm.bias]
    if not plain(x, *per_channel, *([] if shift is None else [shift])):
        return False
    batch, channels = x.shape[:2]
    return (
        channels == norm.num_channels
        and channels % WIDE == channels % norm.num_groups == 0
        and x.numel() > norm.num_groups
        and all(value.shape == (channels,) and value.is_contiguous() for value in per_channel)
        and (shift is None or shift.shape in ((batch, channels), (1, channels)))
    )


def norm_silu(norm: nn.Module, act: nn.Module, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """``act(norm(x + shift))``: ``x`` [B, C, H, W], ``shift`` [B or 1, C] or none → [B, C, H, W].

    In the same passes where ``norm`` is a GroupNorm and ``act`` is SiLU, both as torch has them, ``x`` is
    :func:`~alphabar.model.nn.plain.plain` and there is a C compiler; else one after the other.
    """
    if _fits(norm, act, x, shift) and norm_silu_library() is not None:
        shift = None if shift is None else shift.contiguous()
        out: Tensor = _NormSiLU.apply(x, norm.weight, norm.bias, shift, norm.num_groups, norm.eps)  # type: ignore[no-untyped-call]
        return out
    result: Tensor = act(norm(x if shift is None else x + shift[:, :, None, None]))
    return result
