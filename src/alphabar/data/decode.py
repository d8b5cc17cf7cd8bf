"""One image file made into uint8 grey or RGB pixels: which formats, which modes, and what is refused (rules I1, I2).

Nothing is dropped unsaid: alpha is composited on white, 16 bits become 8 by the documented scale, and whatever has
no documented range (32-bit integers, floats) is refused by the name of its mode.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from alphabar.base.errors import DataError
from alphabar.data.sniff import Content

__all__ = ["BACKGROUND", "MAX_IMAGE_PIXELS", "Header", "Picture", "decode", "examine", "quiet_decoders"]

MAX_IMAGE_PIXELS = 64_000_000
BACKGROUND = 255

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
CUT = "with 16 bits per channel cut to 8"
SCALED = "with 16-bit grey scaled to 8 bits (v / 257, rounded)"
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I")

_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class Header:
    """What is known before decoding: the upright size, and whether the mode is grey."""

    width: int
    height: int
    grey: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels uint8 [H, W] or [H, W, 3], upright; ``notes`` names each conversion ("CMYK converted to RGB")."""

    pixels: npt.NDArray[np.uint8]
    notes: tuple[str, ...]

    @property
    def reduced(self) -> bool:
        """Whether the file held more than 8 bits per channel."""
        return CUT in self.notes or SCALED in self.notes


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Hold back Pillow's warnings, in all threads: what they say is decided here, as an error or a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def examine(file: BinaryIO, content: Content) -> Header:
    """The header of an encoded image. Raises :class:`DataError` with the bare reason, not the name of the file."""
    with _reasons():
        if content.format == "PNG":  # its orientation may stand after the pixels
            data = file.read()
            image = _open(io.BytesIO(data), content)
            if b"eXIf" in data:
                image.load()
        else:
            image = _open(file, content)
        width, height = image.size
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return Header(width, height, image.mode in _GREY_MODES)


def decode(data: bytes, content: Content) -> Picture:
    """All pixels of an encoded image. Raises :class:`DataError` with the bare reason, not the name of the file."""
    with _reasons():
        if content.format == "PNG":
            _check_png(data)
        image = _open(io.BytesIO(data), content)
        image.load()
        notes = _notes(image, data)
        upright = _ORIENTATIONS.get(_orientation(image))
        if upright is not None:
            info = image.info
            image = image.transpose(upright)
            image.info = info
            notes.append("turned upright by their EXIF orientation")
        pixels = _pixels(image, content, notes)
        return Picture(np.ascontiguousarray(pixels), tuple(notes))


def _open(file: BinaryIO, content: Content) -> Image.Image:
    try:
        image = Image.open(file, formats=[content.format])
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        _check_size(int(pixels[0]) if pixels else 2**31)
        raise
    _check_size(image.width * image.height)
    if not image.width * image.height:
        raise DataError(f"an image of {image.width}x{image.height} pixels has none")
    _check_mode(image.mode, content)
    return image


def _check_mode(mode: str, content: Content) -> None:
    if mode == "F" or (mode == "I" and content.format != "PPM"):
        what = "32-bit integers" if mode == "I" else "floating point"
        raise DataError(f"mode {mode} ({what}) has no known range; save it with 8 or 16 bits per channel")
    if mode not in _GREY_MODES and mode not in _COLOUR_MODES:
        raise DataError(f"mode {mode} is not supported; save it as grey or RGB")


def _check_size(pixels: int) -> None:
    if pixels > MAX_IMAGE_PIXELS:
        raise DataError(f"{pixels / 1e6:.0f} Mpixel exceeds the limit of {MAX_IMAGE_PIXELS // 10**6}")


@contextmanager
def _reasons() -> Iterator[None]:
    """Decoders meet hostile bytes and raise nearly anything; all of it means that the image cannot be used."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError("not enough memory to decode it") from error
    except UnidentifiedImageError as error:
        raise DataError("damaged image header") from error
    except Exception as error:
        text = " ".join(str(error).split())
        if "truncated" in text.lower():
            unread = re.search(r"\(\d+ bytes not processed\)", text)
            raise DataError(f"truncated image {unread[0] if unread else ''}".rstrip()) from error
        raise DataError(f"damaged image data ({text or type(error).__name__})") from error


def _check_png(data: bytes) -> None:
    """Every critical chunk is there and has the right checksum; Pillow leaves that of the pixels unread."""
    position = 8
    while True:
        head = data[position : position + 8]
        if len(head) < 8:
            raise DataError(f"truncated image (at least {12 - len(head)} bytes missing)")
        length, kind = struct.unpack(">I4s", head)
        missing = position + 12 + length - len(data)
        if missing > 0:
            raise DataError(f"truncated image (at least {missing} bytes missing)")
        body = memoryview(data)[position + 4 : position + 8 + length]
        (stored,) = struct.unpack_from(">I", data, position + 8 + length)
        if kind[:1].isupper() and zlib.crc32(body) != stored:
            raise DataError(f"damaged image data (checksum of chunk {kind.decode('ascii', 'replace')!r} is wrong)")
        if kind == b"IEND":
            return
        position += 12 + length


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # garbage EXIF says nothing about the pixels: the image counts as upright
        return 1
    return value if isinstance(value, int) else 1


def _notes(image: Image.Image, data: bytes) -> list[str]:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("with several frames, only the first used")
    if image.info.get("icc_profile"):
        notes.append("with an ICC colour profile, ignored")
    deep = data[24] == 16 if image.format == "PNG" else 16 in _tiff_bits(image)
    if deep and image.mode in ("RGB", "RGBA", "RGBX", "LA"):
        notes.append(CUT)
    return notes


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    return tuple(image.tag_v2.get(258, ())) if isinstance(image, TiffImageFile) else ()


def _pixels(image: Image.Image, content: Content, notes: list[str]) -> npt.NDArray[np.uint8]:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and content.format == "PPM"):
        return _from_16_bits(image, notes)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_background(image, notes)
    if mode in ("L", "RGB"):
        return np.asarray(image)
    if mode == "1":
        notes.append("with 1 bit per pixel converted to grey")
        return np.asarray(image.convert("L"))
    if mode == "P":
        notes.append("with a palette converted to RGB")
        return _grey_if_grey(np.asarray(image.convert("RGB")))
    notes.append(f"in {mode} converted to RGB")
    return np.asarray(image.convert("RGB"))


def _from_16_bits(image: Image.Image, notes: list[str]) -> npt.NDArray[np.uint8]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"mode {image.mode} with values {values.min()} to {values.max()}; allowed are 0 to 65535")
    notes.append(SCALED)
    scaled = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        notes.append("with transparency composited on white")
        scaled[values == key] = BACKGROUND
    return scaled


def _on_background(image: Image.Image, notes: list[str]) -> npt.NDArray[np.uint8]:
    grey = image.mode in ("1", "L", "LA", "La")
    straight = image.convert("LA") if image.mode == "La" else image
    channels = np.asarray(straight.convert("RGBA"))
    alpha = channels[..., 3:].astype(np.uint32)
    colour = channels[..., :1] if grey else channels[..., :3]
    if alpha.min() < 255:
        notes.append("with transparency composited on white")
        colour = ((colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
    if grey:
        return colour[..., 0]
    return _grey_if_grey(colour) if image.mode in ("P", "PA") else colour


def _grey_if_grey(colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A palette says nothing about colour, so its pixels decide: [H, W] if every one of them is grey."""
    red = colour[..., :1]
    return colour[..., 0] if bool((colour == red).all()) else colour
