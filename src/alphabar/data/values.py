"""Stored numbers that are not 8-bit pixels, made into 256 levels by a range that is known or given.

16-bit unsigned numbers have a documented range, 0 to 65535. Whatever else is stored (floats, signed or 32-bit
integers) means something that only its owner knows, and is refused until a range is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError
from alphabar.base.pixels import Units

__all__ = [
    "CHANNELS",
    "CLIPPED",
    "DEEP",
    "SIXTEEN_BITS",
    "Levels",
    "NeedsRange",
    "as_levels",
    "is_channels",
    "units_of",
]

CHANNELS = range(1, 5)
SIXTEEN_BITS = (0.0, 65535.0)
DEEP = "with {0} values, {1:.6g} to {2:.6g} made 0 to 255"
CLIPPED = "with values outside data.value_range, set to its nearer end"
ONE_BIT = "with true and false made 255 and 0"


def units_of(stored: set[str], span: tuple[float, float]) -> Units:
    """What 0 and 255 stand for where values of the dtypes ``stored`` were mapped from ``span``."""
    deep = stored == {"uint16"} and SIXTEEN_BITS[0] <= span[0] and span[1] <= SIXTEEN_BITS[1]
    return Units(*span, dtype="uint16" if deep else "float32")


class NeedsRange(DataError):
    """Values that mean nothing without a range; ``low`` and ``high`` are those found."""

    def __init__(self, stored: str, low: float, high: float) -> None:
        super().__init__(
            f"{stored} values from {low:.6g} to {high:.6g} have no known range; say which are black and white, "
            f"such as data.value_range=[{low:.6g},{high:.6g}]"
        )
        self.low, self.high = low, high


@dataclass(frozen=True, eq=False)
class Levels:
    """``pixels`` uint8; ``stored`` the dtype they come from and ``found`` its least and greatest value, if not uint8.

    ``span`` are the values that became 0 and 255.
    """

    pixels: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()
    stored: str = ""
    found: tuple[float, float] | None = None
    span: tuple[float, float] | None = None


def is_channels(axis: int, others: Sequence[int]) -> bool:
    """Whether an axis of this length is channels: few, or fewer than the rows and the columns that ``others`` are."""
    return axis in CHANNELS or axis < min(others)


def as_levels(values: npt.NDArray[np.generic], value_range: tuple[float, float] | None) -> Levels:
    """``values`` of any shape as uint8 by v ↦ round(255 (v − low) / (high − low)).

    Raises :class:`NeedsRange` for values without a range, :class:`DataError` for NaN, infinity and what is no number.
    """
    if values.dtype == np.uint8:
        return Levels(values.astype(np.uint8, copy=False))
    if values.dtype == np.bool_:
        return Levels(values.astype(np.uint8) * np.uint8(255), (ONE_BIT,))
    stored = str(values.dtype.newbyteorder("="))
    if values.dtype.kind not in "iuf":
        raise DataError(f"{stored} values are no pixels; save real numbers")
    if values.dtype.kind == "f":
        unusable = values.size - int(np.count_nonzero(np.isfinite(values.astype(np.float64))))
        if unusable:
            raise DataError(f"{unusable:,} of its {stored} values are NaN or infinite; repair them")
    found = (float(values.min()), float(values.max()))
    span = value_range or (SIXTEEN_BITS if stored == "uint16" else None)
    if span is None:
        raise NeedsRange(stored, *found)
    low, high = span
    scaled = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    notes = [DEEP.format(stored, low, high)]
    if found[0] < low or found[1] > high:
        notes.append(CLIPPED)
    return Levels(np.clip(scaled, 0, 255).astype(np.uint8), tuple(notes), stored, found, span)
