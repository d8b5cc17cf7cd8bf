"""IDX files, the form in which MNIST and its relatives are published, plain or gzipped.

Four bytes (0, 0, type, number of axes), each axis as a big-endian 32-bit number, then the values. Labels lie in a
file of their own beside the images.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.labels import classes_of
from alphabar.data.reading import Reading
from alphabar.data.sniff import sniff
from alphabar.data.sources.layout import arrange, check_labels
from alphabar.data.sources.paths import exists, file_head, regular_file
from alphabar.data.text import reason, spec_of, stem

__all__ = ["is_idx", "open_idx"]

UINT8 = 8
TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
GZIP = b"\x1f\x8b"
GZIP_RATIO = 1100  # deflate cannot do better than 1032:1


def is_idx(path: str) -> bool:
    """Whether ``path`` starts like an IDX file, plain or gzipped. Raises :class:`DataError` if it cannot be read."""
    head = file_head(path)
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 4)
        except zlib.error:
            return False
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in TYPES and 1 <= head[3] <= 4


def open_idx(path: str, reading: Reading | None = None) -> Images:
    """uint8 [N, 1, H, W] from an IDX file of images, with the labels of the file beside it if there is one.

    ``train-images-idx3-ubyte[.gz]`` goes with ``train-labels-idx1-ubyte[.gz]``. Raises :class:`DataError` for a
    missing, truncated or overlong file, another type or number of axes, and labels that do not fit.
    """
    what = printable(path)
    values = _read(path)
    if values.ndim == 1:
        raise DataError(f"{what}: holds {len(values):,} labels; give the file of the images, idx3")
    pixels = arrange(values, what)
    beside = _labels_beside(path)
    if beside is None:
        return Images(pixels, None, (), stem(path), spec_of("idx", path))
    labels, names, notes = classes_of(check_labels(_read(beside), len(pixels), printable(beside)))
    return Images(pixels, labels, names, stem(path), spec_of("idx", path), notes)


def _labels_beside(path: str) -> str | None:
    folder, name = os.path.split(path)
    labels = re.sub(r"images([-._])idx3", r"labels\1idx1", name)
    if labels == name:
        return None
    plain = os.path.join(folder, labels).removesuffix(".gz")
    return next((candidate for candidate in (plain, plain + ".gz") if exists(candidate)), None)


def _read(path: str) -> npt.NDArray[np.uint8]:
    what = printable(path)
    if not is_idx(path):
        raise DataError(f"{what}: {sniff(file_head(path)).words}; an IDX file was expected")
    packed = file_head(path).startswith(GZIP)
    longest = regular_file(path) * (GZIP_RATIO if packed else 1)
    try:
        with open(path, "rb") as stored:
            return _values(gzip.GzipFile(fileobj=stored) if packed else stored, longest, what)
    except (OSError, EOFError, zlib.error, struct.error, MemoryError) as error:
        raise DataError(f"{what}: damaged or truncated IDX file ({printable(reason(error))}); copy it again") from error


def _values(file: BinaryIO | gzip.GzipFile, longest: int, what: str) -> npt.NDArray[np.uint8]:
    _, kind, axes = struct.unpack(">HBB", file.read(4))
    if kind != UINT8:
        raise DataError(f"{what}: values are {TYPES[kind]}; they must be uint8 from 0 to 255")
    shape = struct.unpack(f">{axes}I", file.read(4 * axes))
    expected = math.prod(shape)
    data = file.read(expected + 1) if expected <= longest else b""
    if len(data) < expected:
        missing = f"{expected - len(data):,} of {expected:,} bytes missing" if data else f"{expected:,} bytes promised"
        raise DataError(f"{what}: truncated IDX file of shape {list(shape)} ({missing}); copy it again")
    if len(data) > expected:
        raise DataError(f"{what}: goes on after the {expected:,} bytes of its shape {list(shape)}; copy it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
