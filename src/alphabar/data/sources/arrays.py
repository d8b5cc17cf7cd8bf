"""NumPy files: one array of images (npy), or images with labels by the names that data sets use (npz).

Pickled objects are never loaded. A member whose header promises more bytes than the archive holds is refused before
memory is asked for.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.labels import classes_of
from alphabar.data.npy_image import npy_header
from alphabar.data.reading import Reading
from alphabar.data.sniff import sniff
from alphabar.data.sources.layout import arrange_values, check_labels
from alphabar.data.sources.paths import file_head, split_part
from alphabar.data.text import PARTS, reason, spec_of, stem

__all__ = ["is_npz", "open_npy", "open_npz"]

# (images, labels) by part; the first pair whose images are present is taken.
NAMED: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
CHUNK_BYTES = 2**24
PLAIN = ("images", "x", "data", "arr_0")
LABELS = ("labels", "y", "train_labels")


Array = npt.NDArray[np.generic]


@contextmanager
def _damage(complaint: str) -> Iterator[None]:
    """Turn whatever a parser raises into one line; a :class:`DataError` says it better already."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # numpy's parsers raise nearly anything for a damaged header
        raise DataError(f"{complaint} ({printable(reason(error))}); copy it again") from error


def open_npy(path: str, reading: Reading | None = None) -> Images:
    """The images in an .npy file: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W]; no labels.

    Raises :class:`DataError` for a missing or damaged file, another dtype, and another or an ambiguous shape.
    """
    what = printable(path)
    head = file_head(path)
    if not head.startswith(b"\x93NUMPY"):
        raise DataError(f"{what}: {sniff(head).words}; an .npy file was expected")
    with _damage(f"{what}: damaged or truncated .npy file"):
        with open(path, "rb") as file:
            shape, _, dtype = npy_header(file)
        if dtype.hasobject:
            raise DataError(f"{what}: holds pickled Python objects, which are never loaded; save a uint8 array")
        array = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    pixels, units = arrange_values(array, what, None if reading is None else reading.value_range)
    return Images(pixels, None, (), stem(path), spec_of("npy", path), reduced=units is not None, units=units)


def is_npz(path: str) -> bool:
    """Whether a zip file holds arrays by the names that data sets use, or is called ``.npz``."""
    if path.lower().endswith(".npz"):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError):
        return False
    known = {*PLAIN, *(images for pairs in NAMED.values() for images, _ in pairs)}
    return any(f"{name}.npy" in names for name in known)


def open_npz(path: str, reading: Reading | None = None) -> Images:
    """The images in an .npz file, with labels if it has them; ``path#test`` is the test part of one that has two.

    Images are named train_images, x_train, images, x, data or arr_0, labels train_labels, y_train, labels, y or
    arr_1; shapes and dtype as for npy. Raises :class:`DataError` for a missing or damaged file and where names, dtype
    or shapes do not fit.
    """
    file, part = split_part(path)
    what = printable(path)
    head = file_head(file)
    if not head.startswith(b"PK"):
        raise DataError(f"{what}: {sniff(head).words}; an .npz file was expected")
    with _damage(f"{what}: damaged or truncated .npz file"):
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            images_key, labels_key = _keys(members, part, what)
            images = _member(archive, members[images_key], what)
            labels = _member(archive, members[labels_key], what) if labels_key else None
            relatives = [_member(archive, members[key], what) for key in _other_parts(members, labels_key)]
    value_range = None if reading is None else reading.value_range
    pixels, units = arrange_values(images, f"{what}: {printable(images_key)}", value_range)
    name = stem(file) + ("" if part == PARTS[0] else f" {part}")
    if labels is None:
        return Images(pixels, None, (), name, spec_of("npz", file, part), reduced=units is not None, units=units)
    numbers = check_labels(labels, len(pixels), f"{what}: {printable(labels_key)}")
    numbers, class_names, notes = classes_of(numbers, *(check_labels(r, len(r), what) for r in relatives if len(r)))
    spec = spec_of("npz", file, part)
    return Images(pixels, numbers, class_names, name, spec, notes, reduced=units is not None, units=units)


def _keys(members: dict[str, str], part: str, what: str) -> tuple[str, str]:
    """The names of the images and of their labels ("" for none) in an archive."""
    for images, labels in NAMED[part]:
        if images in members:
            return images, labels if labels in members else ""
    plain = [key for key in PLAIN if key in members] if part == PARTS[0] else []
    if len(plain) > 1:
        raise DataError(f"{what}: both {plain[0]} and {plain[1]} may be the images; keep one of them")
    if not plain:
        allowed = [images for images, _ in NAMED[part]] + (list(PLAIN) if part == PARTS[0] else [])
        raise DataError(
            f"{what}: holds {', '.join(map(printable, sorted(members)[:8])) or 'no arrays'}; "
            f"the images must be named {' or '.join(allowed)}"
        )
    named = [key for key in LABELS if key in members]
    if len(named) > 1:
        raise DataError(f"{what}: both {named[0]} and {named[1]} may be the labels; keep one of them")
    if named:
        return plain[0], named[0]
    return plain[0], "arr_1" if plain[0] == "arr_0" and "arr_1" in members else ""


def _other_parts(members: dict[str, str], labels: str) -> list[str]:
    """The labels of the other part of the same layout: both parts have the same classes."""
    layouts = zip(NAMED["train"], NAMED["test"], strict=True)
    pairs = [{train[1], test[1]} for train, test in layouts]
    return [key for pair in pairs if labels in pair for key in pair - {labels} if key in members]


def _member(archive: zipfile.ZipFile, name: str, what: str) -> Array:
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise DataError(f"{what}: is encrypted; save it without a password")
    with archive.open(info) as file:
        shape, fortran, dtype = npy_header(file)
        if dtype.hasobject:
            raise DataError(f"{what}: {printable(name)} holds pickled objects, which are never loaded; save numbers")
        expected = math.prod(shape) * dtype.itemsize
        if info.file_size - file.tell() != expected:
            raise ValueError(f"{name} has {info.file_size - file.tell()} bytes of values, its header says {expected}")
        buffer = np.empty(expected, np.uint8)
        done = 0
        while done < expected:
            piece = file.read(min(CHUNK_BYTES, expected - done))
            if not piece:
                raise EOFError(f"{name} ends early")
            buffer[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        file.read(1)  # reaching the end compares the checksum
    return buffer.view(dtype).reshape(shape, order="F" if fortran else "C")
