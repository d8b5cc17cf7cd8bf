"""One image per ``.npy`` file: [H, W], [H, W, C] or [C, H, W] of any number of channels."""

from __future__ import annotations

import math
import warnings
from typing import IO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from alphabar.base.errors import DataError
from alphabar.data.values import is_channels

__all__ = ["npy_header", "npy_image", "npy_shape"]


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """(shape, Fortran order, dtype) of an .npy file; leaves ``file`` at the first value. Raises what numpy raises."""
    version = npy.read_magic(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers written by Python 2 are fine
        if version == (1, 0):
            return npy.read_array_header_1_0(file)
        if version == (2, 0):
            return npy.read_array_header_2_0(file)
    raise ValueError(f"format version {version}")


def npy_shape(file: IO[bytes]) -> tuple[int, int, int, np.dtype[np.generic]]:
    """(height, width, channels, dtype) of the image in an .npy file. Raises :class:`DataError` where it is none."""
    shape, _, dtype = npy_header(file)
    if dtype.hasobject:
        raise DataError("holds pickled Python objects, which are never loaded")
    height, width, channels = _layout(shape)[:3]
    return height, width, channels, dtype


def npy_image(file: IO[bytes], size: int) -> npt.NDArray[np.generic]:
    """The values [H, W] or [H, W, C] in an .npy file of ``size`` bytes. Raises :class:`DataError` where it is none."""
    shape, fortran, dtype = npy_header(file)
    if dtype.hasobject:
        raise DataError("holds pickled Python objects, which are never loaded")
    channels_first = _layout(shape)[3]
    expected = math.prod(shape) * dtype.itemsize
    missing = expected - (size - file.tell())
    if missing:
        words = f"{missing:,} bytes missing" if missing > 0 else f"{-missing:,} bytes too many"
        raise DataError(f"truncated array ({words})" if missing > 0 else f"damaged array ({words})")
    values = np.frombuffer(file.read(expected), dtype).reshape(shape, order="F" if fortran else "C")
    if values.ndim == 2:
        return values
    values = np.moveaxis(values, 0, 2) if channels_first else values
    return values[..., 0] if values.shape[2] == 1 else values


def _layout(shape: tuple[int, ...]) -> tuple[int, int, int, bool]:
    """(height, width, channels, whether the channels come first)."""
    if 0 in shape:
        raise DataError(f"shape {list(shape)} holds no pixels")
    if len(shape) == 2:
        return shape[0], shape[1], 1, False
    if len(shape) != 3:
        raise DataError(f"shape {list(shape)} is not one image; allowed are [H, W], [H, W, C] and [C, H, W]")
    first, last = is_channels(shape[0], shape[1:]), is_channels(shape[2], shape[:2])
    if first == last:
        raise DataError(f"shape {list(shape)} does not say which axis is channels; they must be the shortest axis")
    if first:
        return shape[1], shape[2], shape[0], True
    return shape[0], shape[1], shape[2], False
