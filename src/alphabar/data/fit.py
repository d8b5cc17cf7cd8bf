"""Images of other sizes brought to one: cut to it, or padded to it. Resizing is Lanczos; nothing is ever enlarged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from alphabar.base.errors import DataError, printable
from alphabar.base.registry import Registry
from alphabar.data.batch import Images
from alphabar.data.memory import allocate

__all__ = ["FITS", "Fit", "common_size", "fit_all"]

SIZES = (16, 32, 64, 128, 256)
# so many images in a hundred may be too small for the size that is chosen for mixed sizes
SMALL_PER_CENT = 1

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fit:
    """A way to bring an image to a size.

    ``words`` say it in the plan; ``place`` takes uint8 [H, W] or [H, W, C], the wanted height and width and the
    background. ``any_size`` says that images smaller than the wanted size are welcome.
    """

    words: str
    place: Callable[[Pixels, int, int, int], Pixels]
    any_size: bool

    def least(self, size: int) -> int:
        """The shortest side that an image may have to be brought to ``size``."""
        return 1 if self.any_size else size


def _crop(pixels: Pixels, height: int, width: int, background: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    scale = max(height / rows, width / columns)
    pixels = _resized(pixels, max(height, round(rows * scale)), max(width, round(columns * scale)))
    rows, columns = pixels.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    return pixels[top : top + height, left : left + width]


def _pad(pixels: Pixels, height: int, width: int, background: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    scale = min(1.0, height / rows, width / columns)
    pixels = _resized(pixels, max(1, round(rows * scale)), max(1, round(columns * scale)))
    rows, columns = pixels.shape[:2]
    placed = np.full((height, width, *pixels.shape[2:]), background, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    placed[top : top + rows, left : left + columns] = pixels
    return placed


FITS: Registry[Fit] = Registry(
    "fits",
    {
        "crop": Fit("shorter side resized, centre cut out", _crop, any_size=False),
        "pad": Fit("longer side resized where it is longer, the rest filled with the background", _pad, any_size=True),
    },
)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    return np.dstack([_resized(np.ascontiguousarray(pixels[..., c]), height, width) for c in range(pixels.shape[2])])


def common_size(shorter_sides: list[int]) -> int:
    """The side for images of mixed sizes: their shorter side if all agree, else the largest of 16, 32, … 256 that all
    but one in a hundred reach.

    16 where more images are smaller than that; those cannot be used with the others.
    """
    ordered = sorted(shorter_sides)
    if ordered[0] == ordered[-1]:
        return ordered[0]
    reached = ordered[len(ordered) * SMALL_PER_CENT // 100]
    return max([SIZES[0], *(size for size in SIZES if size <= reached)])


def fit_all(images: Images, size: int | None, fit: Fit, background: int) -> Images:
    """``images`` at ``size`` x ``size``; unchanged for None; :class:`DataError` if they are too small to be cut."""
    channels, height, width = images.shape
    if size is None or (height, width) == (size, size):
        return images
    if min(height, width) < fit.least(size):
        raise DataError(
            f"{printable(images.name)}: the images are {height}x{width}, smaller than {size}x{size}; "
            f"ask for a size of at most {min(height, width)}, or for data.fit=pad"
        )
    pixels = allocate((len(images), channels, size, size))
    for n in range(len(images)):
        for channel in range(channels):
            pixels[n, channel] = fit.place(images.pixels[n, channel], size, size, background)
    note = f"all images brought from {height}x{width} to {size}x{size} ({fit.words})"
    return dataclasses.replace(images, pixels=pixels, notes=(*images.notes, note))
