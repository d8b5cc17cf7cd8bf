"""Images of other sizes brought to one square size: shorter side resized with Lanczos, then the centre cut out."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from PIL import Image

from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.data.batch import Images
from alphabar.data.memory import allocate

__all__ = ["check_size", "common_size", "fit", "fit_all"]

SIZES = (16, 32, 64, 128, 256)


def check_size(size: int | None) -> None:
    """Raises :class:`ConfigError` unless ``size`` is None or at least 1."""
    if size is not None and size < 1:
        raise ConfigError(f"size = {size}: the side of the images in pixels must be at least 1")


def common_size(shorter_sides: set[int]) -> int:
    """The side for images of mixed sizes: their shorter side if all agree, else the largest of 16, 32, … 256 below.

    16 where an image is smaller than that; it cannot be used with the others.
    """
    smallest = min(shorter_sides)
    if len(shorter_sides) == 1:
        return smallest
    return max([SIZES[0], *(size for size in SIZES if size <= smallest)])


def fit(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """``pixels`` uint8 [H, W] or [H, W, 3] with both sides >= ``size``, as [size, size] or [size, size, 3]."""
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    shorter = min(height, width)
    if shorter != size:
        new_width = size if width == shorter else max(size, round(width * size / shorter))
        new_height = size if height == shorter else max(size, round(height * size / shorter))
        pixels = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling.LANCZOS))
        height, width = new_height, new_width
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def fit_all(images: Images, size: int | None) -> Images:
    """``images`` at ``size`` x ``size``; unchanged for None; :class:`DataError` if they are smaller."""
    channels, height, width = images.shape
    if size is None or (height, width) == (size, size):
        return images
    if min(height, width) < size:
        raise DataError(
            f"{printable(images.name)}: the images are {height}x{width}, smaller than {size}x{size}; "
            f"ask for a size of at most {min(height, width)}"
        )
    pixels = allocate((len(images), channels, size, size))
    for n in range(len(images)):
        for channel in range(channels):
            pixels[n, channel] = fit(images.pixels[n, channel], size)
    note = f"all images resized from {height}x{width} to {size}x{size}"
    return dataclasses.replace(images, pixels=pixels, notes=(*images.notes, note))
