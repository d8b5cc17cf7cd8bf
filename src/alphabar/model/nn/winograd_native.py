"""``winograd.c`` on tensors: a 3×3 convolution with a frame of zeros, and the gradient of its kernel."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.base.native import native

__all__ = ["Winograd", "winograd"]

PANEL = 16
# tiles that are worked on at once: enough to repay reading the kernel, few enough to stay near
PER_THREAD, TOGETHER = 24, 48
_Count, _Memory = ctypes.c_ssize_t, ctypes.c_void_p


class _Images(ctypes.Structure):
    """``images`` of winograd.c."""

    _fields_ = tuple(
        (name, _Count) for name in ("n", "height", "width", "channels", "apart", "rows_apart", "columns_apart")
    )

    @classmethod
    def of(cls, x: Tensor) -> _Images:
        """Of a tensor [n, H, W, C] with channels innermost."""
        n, height, width, channels = x.shape
        return cls(n, height, width, channels, *x.stride()[:3])


_IMAGES, _KERNELS = [ctypes.POINTER(_Images), _Memory], [_Count, _Count, *[_Memory] * 2]
_ARGUMENTS: dict[str, list[Any]] = {
    "convolve": [*_IMAGES, *[_Memory] * 2, *_IMAGES, _Memory, _Count],
    "gradient_of_kernels": [*_IMAGES * 2, *[_Memory] * 2, _Count],
    "points_of_kernels": _KERNELS,
    "points_of_turned_kernels": _KERNELS,
    "kernels_of_points": _KERNELS,
}


class Winograd:
    """The functions, given the library. All tensors are float32, and images [n, H, W, C] have channels innermost."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, types in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [*types, ctypes.c_int], None
        for name, given in (("size_of_kernels", 2), ("size_of_room", 3)):
            function = getattr(library, name)
            function.argtypes, function.restype = [_Count] * given, _Count
        self.library = library

    def _call(self, name: str, *given: _Images | int | Tensor) -> None:
        memory = (value.data_ptr() if isinstance(value, Tensor) else value for value in given)
        getattr(self.library, name)(*memory, torch.get_num_threads())

    def _room(self, x: Tensor, some: int, times: int, out_channels: int) -> Tensor:
        return x.new_empty(times * self.library.size_of_room(some, x.shape[-1], out_channels))

    def _points(self, name: str, weight: Tensor, rows: int, columns: int) -> Tensor:
        """What kernels are at the points, as matrices of so many rows, which are summed over, and columns."""
        # what fills up the rows meets zeros, and must be a number
        made = weight.new_empty if rows % PANEL == 0 else weight.new_zeros
        u = made(self.library.size_of_kernels(rows, columns))
        self._call(name, *weight.shape[:2], weight.permute(0, 2, 3, 1).contiguous(), u)
        return u

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
        """``x`` [n, H, W, C] with ``weight`` [O, C, 3, 3] and ``bias`` [O], into ``y`` [n, H, W, O]."""
        out_channels, channels = weight.shape[:2]
        self._convolve(x, self._points("points_of_kernels", weight, channels, out_channels), bias, y)

    def gradient_of_images(self, weight: Tensor, g: Tensor) -> Tensor:
        """The gradient of ``x`` in :meth:`convolve`, for that of its result, ``g`` [n, H, W, O]."""
        out_channels, channels = weight.shape[:2]
        turned = self._points("points_of_turned_kernels", weight, out_channels, channels)
        of_x = g.new_empty(*g.shape[:3], channels)
        self._convolve(g, turned, g.new_zeros(channels), of_x)
        return of_x

    def _convolve(self, x: Tensor, u: Tensor, bias: Tensor, y: Tensor) -> None:
        room = self._room(x, PER_THREAD, torch.get_num_threads(), len(bias))
        self._call("convolve", _Images.of(x), x, u, bias.contiguous(), _Images.of(y), y, room, PER_THREAD)

    def gradient_of_weight(self, x: Tensor, g: Tensor) -> Tensor:
        """The gradient of ``weight`` in :meth:`convolve`, for that of its result, ``g`` [n, H, W, O]."""
        channels, out_channels = x.shape[-1], g.shape[-1]
        du = x.new_zeros(self.library.size_of_kernels(out_channels, channels))
        room = self._room(x, TOGETHER, 1, out_channels)
        self._call("gradient_of_kernels", _Images.of(x), x, _Images.of(g), g, du, room, TOGETHER)
        kernels = x.new_empty(out_channels, 3, 3, channels)
        self._call("kernels_of_points", out_channels, channels, du, kernels)
        return kernels.permute(0, 3, 1, 2)


@functools.cache
def winograd() -> Winograd | None:
    """The functions, or None where they cannot be compiled."""
    library = native(Path(__file__).with_name("winograd.c"))
    return None if library is None else Winograd(library)
