"""CIFAR-10, both versions, and pickles that want more than arrays."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alphabar.base.errors import DataError
from alphabar.data.sources import open_source
from alphabar.data.sources.cifar import CLASS_NAMES
from data.pictures import write

NAMES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


def records(seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2, 3072), np.uint8), [int(n) for n in rng.integers(0, 10, 2)]


def binary(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    return np.column_stack([np.array(labels, np.uint8), data]).tobytes()


def pickled(protocol: int) -> Callable[[npt.NDArray[np.uint8], list[int]], bytes]:
    def encode(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
        content = {b"batch_label": b"x", b"labels": labels, b"data": data, b"filenames": [b"a", b"b"]}
        return pickle.dumps(content, protocol)

    return encode


def python2(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """The pickle of the published files: protocol 2 from Python 2, whose strings are bytes."""
    out = b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    out += b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R"
    out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    out += b"\x89T" + len(data.tobytes()).to_bytes(4, "little") + data.tobytes() + b"tbs"
    return out + b"U\x06labels](" + b"".join(b"K" + bytes([n]) for n in labels) + b"es."


def cifar(folder: Path, encode: Callable[..., bytes], end: str = "") -> Path:
    for n, name in enumerate(NAMES):
        write(folder / f"{name}{end}", encode(*records(n)))
    return folder


def refused(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        open_source(spec)
    assert str(caught.value).isprintable()
    return str(caught.value)


VERSIONS = [(binary, ".bin"), (python2, ""), *((pickled(n), "") for n in range(2, 6))]


@pytest.mark.parametrize(("encode", "end"), VERSIONS, ids=["binary", "python2", "p2", "p3", "p4", "p5"])
def test_both_versions_hold_the_same(tmp_path: Path, encode: Callable[..., bytes], end: str) -> None:
    images = open_source(str(cifar(tmp_path, encode, end)))
    assert images.shape == (3, 32, 32)
    assert (images.pixels.reshape(10, -1) == np.concatenate([records(n)[0] for n in range(5)])).all()
    assert images.labels is not None
    assert images.labels.tolist() == [label for n in range(5) for label in records(n)[1]]
    assert (images.class_names, images.name, images.spec) == (CLASS_NAMES, "cifar10", f"cifar10:{tmp_path}")
    test = open_source(f"cifar10:{tmp_path}#test")
    assert (test.pixels.reshape(2, -1) == records(5)[0]).all()
    assert open_source(test.spec).fingerprint == open_source(f"{tmp_path}#test").fingerprint == test.fingerprint


@pytest.mark.parametrize(("encode", "end", "sub"), [(binary, ".bin", "bin"), (pickled(4), "", "py")])
def test_the_parent_folder_will_do(tmp_path: Path, encode: Callable[..., bytes], end: str, sub: str) -> None:
    cifar(tmp_path / f"cifar-10-batches-{sub}", encode, end)
    assert len(open_source(str(tmp_path))) == 10


def test_only_the_test_batch_is_enough_for_the_test_part(tmp_path: Path) -> None:
    write(tmp_path / "test_batch.bin", binary(*records(0)))
    assert len(open_source(f"{tmp_path}#test")) == 2
    assert "no CIFAR-10 train batches here" in refused(f"cifar10:{tmp_path}")


def test_a_missing_batch_and_a_file_instead_of_the_folder(tmp_path: Path) -> None:
    cifar(tmp_path, binary, ".bin")
    (tmp_path / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin: No such file" in refused(f"cifar10:{tmp_path}")
    assert "is not a folder" in refused(f"cifar10:{tmp_path}/data_batch_1.bin")


def test_damaged_binaries(tmp_path: Path) -> None:
    cifar(tmp_path, binary, ".bin")
    first = tmp_path / "data_batch_1.bin"
    good = first.read_bytes()
    for damaged in (good[:-1], b""):
        first.write_bytes(damaged)
        assert "no whole number of records" in refused(str(tmp_path))
    first.write_bytes(b"\x0a" + good[1:])
    assert "CIFAR-10 has 0 to 9" in refused(str(tmp_path))


class Evil:
    """Calls what it is given when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("key", ["data", "labels", "other"])
def test_pickles_that_call_something_are_refused(tmp_path: Path, key: str) -> None:
    cifar(tmp_path, pickled(4))
    marker = tmp_path / "ran"
    data, labels = records(0)
    for evil in (Evil(subprocess.call, ["touch", str(marker)]), Evil(eval, "1"), Evil(np.load, "x"), Evil(np.ones, 3)):
        content: dict[str, Any] = {"data": data, "labels": labels, key: evil}
        write(tmp_path / "data_batch_1", pickle.dumps(content))
        assert "which is refused" in refused(str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "no dictionary"),
        ({}, "wants data and labels"),
        ({"data": b"x", "labels": [1]}, "wants data and labels"),
        ({"data": records(0)[0], "labels": [1]}, "not uint8 [1, 3072]"),
        ({"data": records(0)[0].astype(np.float32), "labels": [1, 2]}, "not uint8"),
        ({"data": np.array([[None]]), "labels": [1]}, "not uint8"),
        ({"data": records(0)[0][0], "labels": [1]}, "not uint8"),
        ({"data": records(0)[0], "labels": [1, 10]}, "from 0 to 9"),
        ({"data": records(0)[0], "labels": [1, "a"]}, "from 0 to 9"),
        ({"data": records(0)[0], "labels": []}, "from 0 to 9"),
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: Any, words: str) -> None:
    cifar(tmp_path, pickled(4))
    for protocol in range(2, 6):
        write(tmp_path / "data_batch_1", pickle.dumps(content, protocol))
        assert words in refused(str(tmp_path))


def test_damaged_pickles_never_escape(tmp_path: Path) -> None:
    cifar(tmp_path, pickled(4))
    good = pickled(4)(*records(0))
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(good)
        data[int(rng.integers(0, 150))] = int(rng.integers(256))
        data = data[: int(rng.integers(1, len(data)))] if rng.integers(2) else data
        write(tmp_path / "data_batch_1", bytes(data))
        try:
            open_source(str(tmp_path))
        except DataError as error:
            assert str(error).isprintable()


def test_fortran_order_is_understood(tmp_path: Path) -> None:
    data, labels = records(0)
    cifar(tmp_path, pickled(4))
    for protocol in range(2, 6):
        write(tmp_path / "data_batch_1", pickle.dumps({"data": np.asfortranarray(data), "labels": labels}, protocol))
        assert (open_source(str(tmp_path)).pixels[:2].reshape(2, -1) == data).all()
