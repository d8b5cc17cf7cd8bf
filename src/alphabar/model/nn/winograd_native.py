"""The sums of Winograd's F(4×4, 3×3) by ``winograd.c``: the functions of ``winograd_sums.py``, for float32 on a CPU."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.base.native import native
from alphabar.model.nn.winograd_sums import POINTS, tiles

__all__ = ["Native", "native_sums"]

_Count, _Memory = ctypes.c_ssize_t, ctypes.c_void_p


class _Images(ctypes.Structure):
    """``images`` of winograd.c: how many, their size, and how far apart images, rows and columns lie."""

    _fields_ = (
        ("n", _Count),
        ("height", _Count),
        ("width", _Count),
        ("channels", _Count),
        ("apart", _Count),
        ("rows_apart", _Count),
        ("columns_apart", _Count),
    )


_IMAGES, _KERNELS = [ctypes.POINTER(_Images), _Memory], [_Count, _Count, _Memory]
_ARGUMENTS: dict[str, list[Any]] = {
    "points_of_images": [*_IMAGES, _Memory],
    "points_of_gradient": [*_IMAGES, _Memory],
    "positions": [*_IMAGES, _Memory, _Memory],
    "images_of_points": [*_IMAGES, _Memory],
    "points_of_kernels": [*_KERNELS, _Memory],
    "kernels_of_points": [*_KERNELS, _Memory],
}


def _channels_innermost(x: Tensor) -> Tensor:
    """``x`` [n, H, W, C] itself, or a copy where channels are not beside each other."""
    return x if x.shape[-1] == 1 or x.stride(-1) == 1 else x.contiguous()


def _images(x: Tensor) -> _Images:
    apart, rows_apart, columns_apart, _ = x.stride()
    n, height, width, channels = x.shape
    return _Images(n, height, width, channels, apart, rows_apart, columns_apart)


class Native:
    """The six functions, given the library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, types in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [*types, ctypes.c_int], None
        self.library = library

    def _call(self, name: str, *given: _Images | int | Tensor) -> None:
        memory = (value.data_ptr() if isinstance(value, Tensor) else value for value in given)
        getattr(self.library, name)(*memory, torch.get_num_threads())

    def _points(self, name: str, x: Tensor) -> Tensor:
        x = _channels_innermost(x)
        n, height, width, channels = x.shape
        points = x.new_empty(POINTS**2, n * tiles(height) * tiles(width), channels)
        self._call(name, _images(x), x, points)
        return points

    def points_of_images(self, x: Tensor) -> Tensor:
        """Bᵀ d B of every tile: [36, n·th·tw, C] of ``x`` [n, H, W, C]."""
        return self._points("points_of_images", x)

    def points_of_gradient(self, g: Tensor) -> Tensor:
        """A g Aᵀ: [36, n·th·tw, C] of ``g`` [n, H, W, C]."""
        return self._points("points_of_gradient", g)

    def positions(self, m: Tensor, bias: Tensor, out: Tensor) -> None:
        """Aᵀ m A and a ``bias`` [C] into ``out`` [n, H, W, C], of ``m`` [36, n·th·tw, C]."""
        self._call("positions", _images(out), m.contiguous(), bias.contiguous(), out)

    def images_of_points(self, v: Tensor, out: Tensor) -> None:
        """The sum over overlapping tiles of B v Bᵀ into ``out`` [n, H, W, C], of ``v`` [36, n·th·tw, C]."""
        self._call("images_of_points", _images(out), v.contiguous(), out)

    def points_of_kernels(self, weight: Tensor) -> Tensor:
        """G g Gᵀ: [36, O, C] of ``weight`` [O, C, 3, 3]."""
        out_channels, channels = weight.shape[:2]
        points = weight.new_empty(POINTS**2, out_channels, channels)
        self._call("points_of_kernels", out_channels, channels, weight.permute(0, 2, 3, 1).contiguous(), points)
        return points

    def kernels_of_points(self, u: Tensor) -> Tensor:
        """Gᵀ u G: [O, C, 3, 3], the weight's, of ``u`` [36, O, C]."""
        _, out_channels, channels = u.shape
        kernels = u.new_empty(out_channels, 3, 3, channels)
        self._call("kernels_of_points", out_channels, channels, u.contiguous(), kernels)
        return kernels.permute(0, 3, 1, 2)


@functools.cache
def native_sums() -> Native | None:
    """The functions, or None where there is no compiler, or a processor without AVX2."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    library = native(Path(__file__).with_name("winograd.c"))
    return None if library is None else Native(library)
