"""Encoded images made on the spot, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["encode", "grey", "png_chunks", "rgb", "write"]


def rgb(seed: int = 0, height: int = 8, width: int = 8) -> npt.NDArray[np.uint8]:
    """Random colours, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey(seed: int = 0, height: int = 8, width: int = 8) -> npt.NDArray[np.uint8]:
    """Random greys, uint8 [H, W]."""
    return rgb(seed, height, width)[..., 0].copy()


def encode(image: npt.NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file of the given kind."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def write(path: Path, content: bytes | None = None) -> Path:
    """``content`` (a small colour PNG by default) at ``path``, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(rgb()) if content is None else content)
    return path


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of exactly these chunks, with right checksums."""
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
