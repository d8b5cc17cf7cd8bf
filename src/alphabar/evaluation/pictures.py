"""Pixels on paper: single images, grids and animations as PNG, GIF and WebP files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.storage import write_file

__all__ = ["animation", "enlarge", "grid", "png", "to_pil", "write_animation", "write_png"]

GAP = 2
PAPER = 255


def to_pil(image: Tensor) -> Image.Image:
    """One image uint8 [C, H, W] with 1, 3 or 4 channels as a picture.

    Raises:
        ConfigError: for another number of channels, which no picture format shows.
    """
    channels = image.shape[0]
    if channels not in (1, 3, 4):
        raise ConfigError(
            f"picture: got {channels} channels, PNG shows 1, 3 or 4; alphabar sample writes such images to samples.npy"
        )
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Image.fromarray(array[:, :, 0] if channels == 1 else array)


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images uint8 [N, C, H, W] in rows from left to right, with a white gap: uint8 [C, H', W']."""
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    sheet = images.new_full((channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), PAPER)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def enlarge(images: Tensor, least: int = 64) -> Tensor:
    """Images uint8 [N, C, H, W] with every pixel repeated until a side has at least ``least`` of them."""
    factor = max(1, -(-least // max(images.shape[-2:])))
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def png(image: Tensor) -> bytes:
    """One image uint8 [C, H, W] as a PNG file."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: Path, image: Tensor) -> None:
    """:func:`png` into a file.

    Raises:
        StorageError: if the disk refuses.
    """
    write_file(path, png(image))


def animation(frames: Sequence[Tensor], kind: str, milliseconds: int = 60, last: int = 2000) -> bytes:
    """Images uint8 [C, H, W] as a looping ``"GIF"`` or lossless ``"WEBP"``, the last one shown longer."""
    pictures = [to_pil(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        kind,
        save_all=True,
        append_images=pictures[1:],
        duration=[milliseconds] * (len(pictures) - 1) + [last],
        loop=0,
        lossless=True,
    )
    return buffer.getvalue()


def write_animation(path: Path, frames: Sequence[Tensor]) -> None:
    """:func:`animation` into a ``.gif`` or ``.webp`` file.

    Raises:
        StorageError: if the disk refuses.
    """
    write_file(path, animation(frames, path.suffix[1:].upper()))
