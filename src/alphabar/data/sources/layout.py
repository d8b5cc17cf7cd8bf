"""Arrays and labels from files of arrays, checked and brought to uint8 [N, C, H, W] and int64 [N].

A shape that can be read in two ways is refused rather than guessed, and so is every dtype but uint8 unless a range is
given: nobody but the owner of the file knows which range its numbers have.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError
from alphabar.base.pixels import Units
from alphabar.data.labels import MAX_CLASSES
from alphabar.data.memory import IN_MEMORY_BYTES, allocate, rows_per_chunk
from alphabar.data.values import CHANNELS, as_levels, is_channels, units_of

__all__ = ["arrange", "arrange_values", "check_labels"]


def arrange(array: npt.NDArray[np.generic], what: str) -> npt.NDArray[np.uint8]:
    """``array`` [N, H, W], [N, H, W, C] or [N, C, H, W] as contiguous uint8 [N, C, H, W]; C is 1–4 or below H, W.

    ``what`` names it in messages. Raises :class:`DataError` for another dtype, another shape or an ambiguous one.
    """
    if array.dtype != np.uint8:
        raise DataError(f"{what}: {_dtype_advice(array)}")
    channels_first = _channels_first(array, what)
    if 0 in channels_first.shape:
        raise DataError(f"{what}: shape {list(array.shape)} holds no pixels; give at least one image")
    if channels_first.flags.c_contiguous and not isinstance(array, np.memmap) and array.nbytes <= IN_MEMORY_BYTES:
        return channels_first.astype(np.uint8, copy=False)
    pixels = allocate(channels_first.shape)
    rows = rows_per_chunk(pixels.shape)
    for start in range(0, len(pixels), rows):
        pixels[start : start + rows] = channels_first[start : start + rows]
    return pixels


def arrange_values(
    array: npt.NDArray[np.generic], what: str, value_range: tuple[float, float] | None
) -> tuple[npt.NDArray[np.uint8], Units | None]:
    """:func:`arrange` of numbers of any kind: ``value_range`` says which of them are black and white.

    The second result says what 0 and 255 stand for, None for numbers that are pixels already.
    """
    if array.dtype == np.uint8 or array.dtype.kind not in "iuf" or value_range is None or not array.size:
        return arrange(array, what), None
    channels_first = _channels_first(array, what)
    pixels = allocate(channels_first.shape)
    rows = rows_per_chunk(pixels.shape)
    for start in range(0, len(pixels), rows):
        try:
            pixels[start : start + rows] = as_levels(channels_first[start : start + rows], value_range).pixels
        except DataError as error:
            raise DataError(f"{what}: {error}") from error
    return pixels, units_of({str(array.dtype)}, value_range)


def _channels_first(array: npt.NDArray[np.generic], what: str) -> npt.NDArray[np.generic]:
    shape = list(array.shape)
    layouts = "[N, H, W], [N, H, W, C] or [N, C, H, W] with C from 1 to 4, or below H and W"
    if array.ndim == 3 and array.shape[2] not in CHANNELS:
        return array[:, None]
    if array.ndim == 3:
        raise DataError(
            f"{what}: shape {shape} may be {shape[0]} images or one [H, W, C]; add an axis to make it 4-dimensional"
        )
    if array.ndim != 4:
        raise DataError(f"{what}: shape {shape} is not images; allowed are {layouts}; reshape it")
    first, last = is_channels(shape[1], shape[2:]), is_channels(shape[3], shape[1:3])
    if first and last:
        raise DataError(f"{what}: shape {shape} is ambiguous, both the second and the last axis may be channels")
    if not first and not last:
        raise DataError(f"{what}: shape {shape} has no axis that must be channels; allowed are {layouts}")
    return array if first else np.moveaxis(array, 3, 1)


def _dtype_advice(array: npt.NDArray[np.generic]) -> str:
    found = f"images are {array.dtype}"
    if array.dtype.kind not in "iufb":
        return f"{found}; they must be uint8 numbers from 0 to 255"
    if not array.size:
        return f"{found} and empty; they must be uint8 from 0 to 255"
    values = np.asarray(array)
    unusable = int(np.count_nonzero(~np.isfinite(values)))
    if unusable:
        return f"{found} with {unusable:,} NaN or infinite values; repair them, then save uint8 from 0 to 255"
    low, high = values.min().item(), values.max().item()
    found += f" from {low:.6g} to {high:.6g}"
    given = f", or give data.value_range=[{low:.6g},{high:.6g}]" if low < high else ""
    if array.dtype.kind == "b":
        return f"{found}; they must be uint8 from 0 to 255: save x.astype('uint8') * 255"
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return f"{found}; they must be uint8 from 0 to 255: save (x * 255).round().astype('uint8'){given}"
    if array.dtype.kind == "f" and low >= -1 and high <= 1:
        return f"{found}; they must be uint8 from 0 to 255: save ((x + 1) * 127.5).round().astype('uint8'){given}"
    if low >= 0 and high <= 255:
        return f"{found}; they must be uint8: save x.round().astype('uint8'){given}"
    return f"{found}; they must be uint8 from 0 to 255: scale them to that range, round and save as uint8{given}"


def check_labels(labels: npt.NDArray[np.generic], n: int, what: str) -> npt.NDArray[np.int64]:
    """``labels`` (integers [N] or [N, 1], from 0) as int64 [N]. Raises :class:`DataError` where they are not."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == n:
        raise DataError(f"{what}: labels have shape {list(labels.shape)}; give class numbers [N], such as argmax(1)")
    if labels.shape != (n,):
        raise DataError(f"{what}: labels have shape {list(labels.shape)}; {n:,} images need [{n}]")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {labels.dtype}; they must be integers from 0")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= MAX_CLASSES:
        raise DataError(f"{what}: labels go from {low} to {high}; number the classes from 0, below {MAX_CLASSES:,}")
    return labels.astype(np.int64)
