"""The handwritten digits that come with the package: 1,797 grey images of 8x8 pixels in ten classes.

They are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licensed CC BY 4.0, as distributed with scikit-learn. The file
holds their values 0..16 unchanged; here they are scaled to uint8 by round(v * 255 / 16).
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.reading import Reading

__all__ = ["open_digits"]


def open_digits(path: str, reading: Reading | None = None) -> Images:
    """uint8 [1797, 1, 8, 8] with classes '0' to '9'. ``path`` must be empty, else :class:`DataError`."""
    if path:
        raise DataError(f"digits:{printable(path)}: the digits come with the package; write digits alone")
    with files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        raw, labels = stored["images"], stored["labels"].astype(np.int64)
    pixels = ((raw[:, None].astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)
    return Images(pixels, labels, tuple("0123456789"), "digits", "digits")
