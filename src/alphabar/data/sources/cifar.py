"""CIFAR-10 as its authors publish it: the binary version, or the Python version read without running its pickles.

The pickles are read by an unpickler that knows four names, each replaced by a function of this file; so neither
numpy nor anything else is called by the data. A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.reading import Reading
from alphabar.data.sources.paths import regular_file, split_part
from alphabar.data.text import PARTS, count, reason, spec_of

__all__ = ["CLASS_NAMES", "is_cifar10", "open_cifar10"]

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}
SUBFOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
SHAPE = (3, 32, 32)
VALUES = 3 * 32 * 32
MAX_FILE_BYTES = 2**28

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def is_cifar10(folder: str) -> bool:
    """Whether ``folder`` or one of its usual sub-folders holds the first file of a part of CIFAR-10."""
    return any(_batch_folder(folder, part) is not None for part in PARTS)


def open_cifar10(path: str, reading: Reading | None = None) -> Images:
    """uint8 [50000, 3, 32, 32] and ten classes from the folder of the train batches; ``path#test`` is the test batch.

    Raises :class:`DataError` for a missing or damaged batch and for a pickle that asks for anything but arrays.
    """
    folder, part = split_part(path)
    if not os.path.isdir(folder):
        raise DataError(f"{printable(folder)}: is not a folder; unpack the archive and give the folder of its batches")
    found = _batch_folder(folder, part)
    if found is None:
        raise DataError(
            f"{printable(folder)}: no CIFAR-10 {part} batches here; give the folder of {BATCHES[part][0]} or "
            f"{BATCHES[part][0]}.bin"
        )
    place, extension = found
    read = _from_binary if extension else _from_pickle
    batches = [read(os.path.join(place, name + extension)) for name in BATCHES[part]]
    pixels = np.concatenate([batch[0] for batch in batches])
    labels = np.concatenate([batch[1] for batch in batches])
    name = "cifar10" + ("" if part == PARTS[0] else f" {part}")
    return Images(pixels, labels, CLASS_NAMES, name, spec_of("cifar10", folder, part))


def _batch_folder(folder: str, part: str) -> tuple[str, str] | None:
    for sub in SUBFOLDERS:
        for extension in ("", ".bin"):
            if os.path.isfile(os.path.join(folder, sub, BATCHES[part][0] + extension)):
                return os.path.join(folder, sub), extension
    return None


def _bytes(path: str) -> bytes:
    if regular_file(path) > MAX_FILE_BYTES:
        raise DataError(f"{printable(path)}: more than {MAX_FILE_BYTES // 2**20} MiB; a CIFAR-10 batch has 30")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{printable(path)}: {reason(error)}; check the path") from error


def _from_binary(path: str) -> tuple[Pixels, Labels]:
    data = np.frombuffer(_bytes(path), np.uint8)
    if not len(data) or len(data) % (VALUES + 1):
        raise DataError(
            f"{printable(path)}: {count(len(data), 'byte')} are no whole number of records of {VALUES + 1}; "
            "the file is truncated or not CIFAR-10: copy it again"
        )
    records = data.reshape(-1, VALUES + 1)
    return records[:, 1:].reshape(-1, *SHAPE), _labels(records[:, 0].astype(np.int64), path)


def _labels(labels: Labels, path: str) -> Labels:
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise DataError(f"{printable(path)}: labels go from {labels.min()} to {labels.max()}; CIFAR-10 has 0 to 9")
    return labels


def _from_pickle(path: str) -> tuple[Pixels, Labels]:
    what = printable(path)
    try:
        content = _Reader(io.BytesIO(_bytes(path)), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a hostile pickle makes the unpickler raise anything
        raise DataError(f"{what}: not a CIFAR-10 batch ({printable(reason(error))}); copy it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{what}: not a CIFAR-10 batch (holds no dictionary); copy it again")
    named = {key.decode("ascii", "replace") if isinstance(key, bytes) else key: content[key] for key in content}
    data, labels = named.get("data"), named.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise DataError(f"{what}: not a CIFAR-10 batch (wants data and labels); copy it again")
    if not labels or any(type(label) is not int or not 0 <= label < len(CLASS_NAMES) for label in labels):
        raise DataError(f"{what}: its labels are not numbers from 0 to 9; copy it again")
    pixels = data.as_uint8()
    if pixels is None or pixels.shape != (len(labels), VALUES):
        raise DataError(f"{what}: its data is not uint8 [{len(labels)}, {VALUES}]; copy it again")
    return pixels.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


class _Dtype:
    """Stands for ``numpy.dtype``: remembers its code."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order, fields and alignment mean nothing for uint8."""


class _Array:
    """Stands for ``numpy.ndarray``: remembers its state, and becomes an array only where that is plain uint8."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def as_uint8(self) -> Pixels | None:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1") or not isinstance(data, bytes):
            return None
        if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
            return None
        if shape[0] * shape[1] != len(data):
            return None
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: object, dtype: object, shape: object, order: object, *_: object) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", bytes(data) if isinstance(data, bytes | bytearray) else None)
    return array


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text that is not latin1")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]
