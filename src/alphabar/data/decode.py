"""One image file made into uint8 pixels: which formats, which modes, and what is refused (rules I1, I2).

Nothing is dropped unsaid: alpha is composited on a background, 16 bits become 8 by the documented scale, and whatever
has no documented range (32-bit integers, floats) is refused by the name of its mode unless a range is given.
"""

from __future__ import annotations

import dataclasses
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
from alphabar.data.npy_image import npy_image, npy_shape
from alphabar.data.pages import PAGES
from alphabar.data.reading import Reading
from alphabar.data.sniff import Content
from alphabar.data.values import Levels, NeedsRange, as_levels

__all__ = ["MAX_IMAGE_PIXELS", "Header", "Picture", "decode", "decode_all", "examine", "quiet_decoders"]

MAX_IMAGE_PIXELS = 64_000_000
MAX_PAGES = 10_000

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

_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")

_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True)
class Header:
    """What is known before decoding: the upright size, how many channels a page has, Pillow's mode (the dtype of an
    array), and the number of pages where they are wanted."""

    width: int
    height: int
    channels: int
    mode: str
    pages: int = 1


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels uint8 [H, W] or [H, W, C], upright; ``notes`` names each conversion ("in CMYK converted to RGB").

    Where the file holds more than 8 bits and they were scaled, ``stored`` is their dtype, ``found`` the least and the
    greatest value, and ``span`` what became 0 and 255. ``size`` is (height, width) of the whole picture, of which
    ``pixels`` may be a half, a quarter or an eighth.
    """

    pixels: npt.NDArray[np.uint8]
    notes: tuple[str, ...]
    size: tuple[int, int]
    stored: str = ""
    found: tuple[float, float] | None = None
    span: tuple[float, float] | None = None

    @property
    def reduced(self) -> bool:
        """Whether the file held more than 8 bits per channel."""
        return CUT in self.notes or bool(self.stored)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Hold back Pillow's warnings, in all threads: what they say is decided here, as an error or a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def examine(file: BinaryIO, content: Content, reading: Reading | None = None) -> Header:
    """The header of an encoded image. Raises :class:`DataError` with the bare reason, not the name of the file."""
    pages = PAGES[(reading or Reading()).pages]
    with _reasons():
        if content.format == "NPY":
            rows, columns, channels, dtype = npy_shape(file)
            _check_size(rows * columns)
            return Header(columns, rows, channels, str(dtype.newbyteorder("=")))
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
        count = min(int(getattr(image, "n_frames", 1)), MAX_PAGES) if pages.every else 1
        return Header(width, height, 1 if image.mode in _GREY_MODES else 3, image.mode, count)


def decode(data: bytes, content: Content, reading: Reading | None = None) -> Picture:
    """The first picture in an encoded image. Raises :class:`DataError` with the bare reason, not the file's name."""
    return decode_all(data, content, reading or Reading())[0]


def decode_all(data: bytes, content: Content, reading: Reading, least: int | None = None) -> list[Picture]:
    """All pictures that an encoded image makes under ``reading``; mostly one.

    With ``least``, a JPEG may be decoded at a half, a quarter or an eighth of its size, for speed, as long as its
    shorter side keeps twice ``least`` pixels: enough for what is then resized to ``least``. Raises :class:`DataError`
    with the bare reason, not the name of the file.
    """
    with _reasons():
        if content.format == "NPY":
            values = npy_image(io.BytesIO(data), len(data))
            _check_size(values.shape[0] * values.shape[1])
            return [_picture(as_levels(values, reading.value_range), [], values.shape[:2])]
        if content.format == "PNG":
            _check_png(data)
        image = _open(io.BytesIO(data), content)
        pages = PAGES[reading.pages]
        count = int(getattr(image, "n_frames", 1)) if pages.every else 1
        if count > MAX_PAGES:
            raise DataError(f"{count:,} pages; at most {MAX_PAGES:,} are read")
        decoded = []
        for page in range(count):
            if page:
                image.seek(page)
                _check_size(image.width * image.height)
                _check_mode(image.mode, content)
            decoded.append(_page(image, data, content, reading, least))
        if pages.stacked and count > 1:
            return [_stacked(decoded, pages.join([one.pixels for one in decoded])[0])]
        return decoded


def _stacked(pages: list[Picture], pixels: npt.NDArray[np.generic]) -> Picture:
    found = [page.found for page in pages if page.found]
    ends = (min(low for low, _ in found), max(high for _, high in found)) if found else None
    notes = tuple(dict.fromkeys(note for page in pages for note in page.notes))
    first = pages[0]
    return Picture(pixels.astype(np.uint8, copy=False), notes, first.size, first.stored, ends, first.span)


def _page(image: Image.Image, data: bytes, content: Content, reading: Reading, least: int | None) -> Picture:
    size = (image.height, image.width)
    if content.format == "JPEG" and least is not None:
        image.draft(None, (2 * least, 2 * least))
    image.load()
    notes = _notes(image, data, reading)
    upright = _ORIENTATIONS.get(_orientation(image))
    if upright is not None:
        if image.format != "TIFF" and _orientation(image) >= 5:
            size = size[::-1]
        info = image.info
        image = image.transpose(upright)
        image.info = info
        notes.append("turned upright by their EXIF orientation")
    if _is_deep(image.mode, content):
        return _picture(_deep(image, reading), notes, size)
    return Picture(np.ascontiguousarray(_pixels(image, reading.background, notes)), tuple(notes), size)


def _picture(levels: Levels, notes: list[str], size: tuple[int, ...]) -> Picture:
    pixels = np.ascontiguousarray(levels.pixels)
    return Picture(pixels, (*notes, *levels.notes), (size[0], size[1]), levels.stored, levels.found, levels.span)


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


def _notes(image: Image.Image, data: bytes, reading: Reading) -> list[str]:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append(PAGES[reading.pages].note)
    if image.info.get("icc_profile"):
        notes.append("with an ICC colour profile, ignored")
    deep = data[24] == 16 if image.format == "PNG" else 16 in _tiff_bits(image)
    if deep and image.mode in ("RGB", "RGBA", "RGBX", "LA"):
        notes.append(CUT)
    return notes


def _tiff_bits(image: Image.Image) -> tuple[int, ...]:
    return tuple(image.tag_v2.get(258, ())) if isinstance(image, TiffImageFile) else ()


def _is_deep(mode: str, content: Content) -> bool:
    """Whether the numbers are more than pixels of 8 bits."""
    return mode.startswith("I") or mode == "F"


def _deep(image: Image.Image, reading: Reading) -> Levels:
    """16-bit grey, 32-bit integers and floats by the range that is known or given."""
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = values.astype(np.uint16)
    try:
        levels = as_levels(values, reading.value_range)
    except NeedsRange as error:
        raise NeedsRange(f"mode {image.mode}, {values.dtype}", error.low, error.high) from None
    key = image.info.get("transparency")
    if isinstance(key, int) and bool((values == key).any()):
        levels.pixels[values == key] = reading.background
        return dataclasses.replace(levels, notes=(*levels.notes, _composited(reading.background)))
    return levels


def _composited(background: int) -> str:
    return f"with transparency composited on {'white' if background == 255 else f'grey {background}'}"


def _pixels(image: Image.Image, background: int, notes: list[str]) -> npt.NDArray[np.uint8]:
    mode = image.mode
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_background(image, background, notes)
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


def _on_background(image: Image.Image, background: int, notes: list[str]) -> npt.NDArray[np.uint8]:
    grey = image.mode in ("1", "L", "LA", "La")
    straight = image.convert("LA") if image.mode == "La" else image
    channels = np.asarray(straight.convert("RGBA"))
    alpha = channels[..., 3:].astype(np.uint32)
    colour = channels[..., :1] if grey else channels[..., :3]
    if alpha.min() < 255:
        notes.append(_composited(background))
        colour = ((colour * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)
    if grey:
        return colour[..., 0]
    return _grey_if_grey(colour) if image.mode in ("P", "PA") else colour


def _grey_if_grey(colour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A palette says nothing about colour, so its pixels decide: [H, W] if every one of them is grey."""
    red = colour[..., :1]
    return colour[..., 0] if bool((colour == red).all()) else colour
