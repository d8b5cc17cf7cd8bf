"""Changes to training images that keep them what they are: each a pure function of (seed, position in the stream).

The position says epoch and image, so a resumed run, another number of threads or of devices change nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import ConfigError
from alphabar.base.registry import Registry
from alphabar.data.order import coin, dice

__all__ = ["AUGMENTATIONS", "Augmentation"]

Pixels = npt.NDArray[np.uint8]
# (pixels uint8 [B, C, H, W] to be changed in place, positions int64 [B], seed)
Augmentation = Callable[[Pixels, npt.NDArray[np.int64], int], None]

SHIFT_SHARE = 16


def flip(pixels: Pixels, positions: npt.NDArray[np.int64], seed: int) -> None:
    """Half of the images mirrored left to right."""
    chosen = coin(positions, seed, "flip")
    pixels[chosen] = pixels[chosen][..., ::-1]


def flip_vertical(pixels: Pixels, positions: npt.NDArray[np.int64], seed: int) -> None:
    """Half of the images mirrored top to bottom."""
    chosen = coin(positions, seed, "flip_vertical")
    pixels[chosen] = pixels[chosen][..., ::-1, :]


def rotate(pixels: Pixels, positions: npt.NDArray[np.int64], seed: int) -> None:
    """Each image turned by 0, 90, 180 or 270 degrees. Raises :class:`ConfigError` unless they are square."""
    if pixels.shape[2] != pixels.shape[3]:
        raise ConfigError(
            f"data.augment: rotate needs square images, these are {pixels.shape[2]}x{pixels.shape[3]}; give data.size"
        )
    quarters = dice(positions, 4, seed, "rotate")
    for turns in (1, 2, 3):
        chosen = quarters == turns
        pixels[chosen] = np.rot90(pixels[chosen], turns, axes=(2, 3))


def shift(pixels: Pixels, positions: npt.NDArray[np.int64], seed: int) -> None:
    """Each image moved by up to a sixteenth of its side, the gap filled by reflection at the edge."""
    for axis in (2, 3):
        side = pixels.shape[axis]
        most = side // SHIFT_SHARE
        steps = dice(positions, 2 * most + 1, seed, "shift", axis) - most
        places = np.abs(np.arange(side)[None] - steps[:, None])
        places = np.where(places < side, places, 2 * (side - 1) - places)
        index = places[:, None, :, None] if axis == 2 else places[:, None, None, :]
        pixels[:] = np.take_along_axis(pixels, np.broadcast_to(index, pixels.shape), axis)


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentations", {"flip": flip, "flip_vertical": flip_vertical, "rotate": rotate, "shift": shift}
)
