"""npy, npz and IDX: layouts, names, labels, and everything that is refused."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from alphabar.base.errors import DataError
from alphabar.data import memory
from alphabar.data.batch import Images
from alphabar.data.sources import open_source
from alphabar.data.sources.arrays import open_npy, open_npz
from alphabar.data.sources.idx import open_idx
from data.pictures import write

RENUMBERED = "only labels that occur are classes, numbered from 0"


def u8(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def npy(path: Path, array: npt.NDArray[Any], **options: Any) -> str:
    np.save(path, array, **options)
    return str(path)


def npz(path: Path, **arrays: npt.NDArray[Any]) -> str:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def refused(spec: str, size: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_source(spec, size)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 8, 9), None), ((5, 8, 9, 1), (0, 3, 1, 2)), ((5, 8, 9, 3), (0, 3, 1, 2)), ((5, 4, 8, 9), (0, 1, 2, 3))],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], axes: tuple[int, ...] | None, order: Any) -> None:
    array = u8(*shape)
    expected = array[:, None] if axes is None else array.transpose(axes)
    for spec in (
        npy(tmp_path / "a.npy", np.asarray(array, order=order)),
        npz(tmp_path / "a.npz", images=np.asarray(array, order=order)),
    ):
        images = open_source(spec)
        assert (images.pixels == expected).all()
        assert images.pixels.flags.c_contiguous
        assert not isinstance(images.pixels, np.memmap)
        assert images.labels is None


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5, 3, 8, 3), "ambiguous"),
        ((5, 8, 8, 8), "no axis that must be channels"),
        ((28, 28, 3), "may be 28 images or one"),
        ((10, 784), "is not images"),
        ((7,), "is not images"),
        ((0, 8, 8), "at least one image"),
        ((5, 8, 0, 3), "at least one image"),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    assert words in refused(npy(tmp_path / "a.npy", u8(*shape)))
    assert words in refused(npz(tmp_path / "a.npz", x=u8(*shape)))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (
            np.linspace(0, 1, 128, dtype=np.float32),
            "float32 from 0 to 1; they must be uint8 from 0 to 255: save (x * 255)",
        ),
        (np.linspace(-1, 1, 128), "float64 from -1 to 1; they must be uint8 from 0 to 255: save ((x + 1) * 127.5)"),
        (np.arange(128, dtype=np.int64), "int64 from 0 to 127; they must be uint8: save x.round().astype('uint8')"),
        (np.arange(128) * 9, "from 0 to 1143; they must be uint8 from 0 to 255: scale"),
        (np.full(128, np.nan), "128 NaN or infinite"),
        (np.zeros(128, bool), "bool"),
        (np.full(128, "a"), "<U1; they must be uint8"),
    ],
)
def test_other_dtypes_say_what_was_found_and_what_to_do(tmp_path: Path, array: npt.NDArray[Any], words: str) -> None:
    assert words in refused(npy(tmp_path / "a.npy", array.reshape(2, 8, 8)))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.touch, ()

    objects = np.array([Evil()], dtype=object)
    assert "never loaded" in refused(npy(tmp_path / "a.npy", objects, allow_pickle=True))
    np.savez(tmp_path / "a.npz", images=objects)
    assert "never loaded" in refused(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", images=u8(1, 8, 8), labels=objects)
    assert "never loaded" in refused(str(tmp_path / "b.npz"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"), ("x", "y"), ("data", "labels"), ("arr_0", "arr_1"),
        ("train_images", "train_labels"), ("x_train", "y_train"), ("x", None), ("x_train", None),
    ],
)  # fmt: skip
def test_names_of_images_and_labels(tmp_path: Path, images: str, labels: str | None) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {images: u8(4, 8, 8)}
    if labels:
        arrays[labels] = np.array([[2], [0], [1], [1]], np.int32)
    opened = open_source(npz(tmp_path / "set.v1.npz", other=np.zeros(3), **arrays))
    assert opened.name == "set"
    assert opened.spec == f"npz:{tmp_path}/set.v1.npz"
    if labels is None:
        assert opened.labels is None
    else:
        assert opened.labels is not None
        assert opened.labels.tolist() == [2, 0, 1, 1]
        assert opened.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("train", "test", "y"), [("train_images", "test_images", "labels"), ("x_train", "x_test", "y")]
)
def test_train_and_test_parts(tmp_path: Path, train: str, test: str, y: str) -> None:
    names = [f"{part}_labels" if y == "labels" else f"y_{part}" for part in ("train", "test")]
    spec = npz(
        tmp_path / "mnist.npz",
        **{train: u8(4, 8, 8), test: u8(2, 8, 8)[::-1], names[0]: np.array([0, 1, 5, 1]), names[1]: np.array([2, 0])},
    )
    first, second = open_source(spec), open_source(f"npz:{spec}#test")
    assert (len(first), len(second)) == (4, 2)
    assert first.class_names == second.class_names == tuple("0125")
    assert first.labels is not None and second.labels is not None
    assert (first.labels.tolist(), second.labels.tolist()) == ([0, 1, 3, 1], [2, 0])
    assert first.notes == second.notes == (f"no image has the label 3: {RENUMBERED} (label 5 is class 3)",)
    assert (second.name, second.spec) == ("mnist test", f"npz:{spec}#test")
    assert open_source(second.spec).fingerprint == open_source(f"{spec}#test").fingerprint == second.fingerprint
    assert open_source(f"{spec}#train").fingerprint == first.fingerprint
    assert "did you mean 'test'" in refused(f"{spec}#tset")


@pytest.mark.parametrize(
    ("given", "numbers", "names", "note"),
    [
        ([2, 0, 1, 1], [2, 0, 1, 1], "012", None),
        (
            [1, 3, 2, 3],
            [0, 2, 1, 2],
            "123",
            f"no image has the label 0: {RENUMBERED} (label 3 is class 2)",
        ),
        (
            [7, 0, 7, 3],
            [2, 0, 2, 1],
            "037",
            f"no image has the label 1: {RENUMBERED} (label 7 is class 2)",
        ),
        ([5, 5, 5, 5], [0, 0, 0, 0], "5", f"no image has the label 0: {RENUMBERED} (label 5 is class 0)"),
    ],
)
def test_every_class_has_images(
    tmp_path: Path, given: list[int], numbers: list[int], names: str, note: str | None
) -> None:
    """A network would be asked for a class that it has never seen; a source's own numbers remain as names."""
    write(tmp_path / "train-labels-idx1-ubyte", idx(np.array(given, np.uint8)))
    for path in (
        write(tmp_path / "train-images-idx3-ubyte", idx(u8(4, 8, 8))),
        npz(tmp_path / "a.npz", images=u8(4, 8, 8), labels=np.array(given)),
    ):
        images = open_source(str(path))
        assert images.labels is not None and images.labels.dtype == np.int64
        assert (images.labels.tolist(), images.class_names) == (numbers, tuple(names))
        assert images.notes == (() if note is None else (note,))


def test_a_hash_in_the_name_is_a_name(tmp_path: Path) -> None:
    spec = npz(tmp_path / "a#test.npz", images=u8(1, 8, 8))
    assert len(open_source(spec)) == len(open_source(f"npz:{spec}")) == 1


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": u8(2, 8, 8)}, "holds pictures; the images must be named"),
        ({}, "holds no arrays"),
        ({"images": u8(2, 8, 8), "x": u8(2, 8, 8)}, "both images and x"),
        ({"images": u8(2, 8, 8), "labels": np.zeros(2, int), "y": np.zeros(2, int)}, "both labels and y"),
        ({"images": u8(2, 8, 8), "labels": np.zeros(3, int)}, "2 images need [2]"),
        ({"images": u8(2, 8, 8), "labels": np.zeros(2)}, "float64; they must be integers"),
        ({"images": u8(2, 8, 8), "labels": np.array([-1, 0])}, "from -1 to 0"),
        ({"images": u8(2, 8, 8), "labels": np.array([0, 10**12])}, "number the classes from 0"),
        ({"images": u8(2, 8, 8), "labels": np.zeros((2, 10), int)}, "argmax"),
    ],
)
def test_archives_that_do_not_fit(tmp_path: Path, arrays: dict[str, npt.NDArray[Any]], words: str) -> None:
    assert words in refused(npz(tmp_path / "a.npz", **arrays))


def test_a_missing_test_part_is_said(tmp_path: Path) -> None:
    assert "must be named test_images or x_test" in refused(npz(tmp_path / "a.npz", images=u8(1, 8, 8)) + "#test")


def test_damaged_files(tmp_path: Path) -> None:
    for path in (npy(tmp_path / "a.npy", u8(9, 8, 8)), npz(tmp_path / "a.npz", images=u8(9, 8, 8))):
        data = Path(path).read_bytes()
        for length in (len(data) - 1, len(data) // 2, 8):
            Path(path).write_bytes(data[:length])
            assert "damaged or truncated" in refused(path)
    np.savez(tmp_path / "b.npz", images=u8(9, 8, 8))
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[300] ^= 1
    (tmp_path / "b.npz").write_bytes(data)
    assert "damaged or truncated" in refused(str(tmp_path / "b.npz"))


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    text = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }".ljust(117) + "\n"
    claim = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()
    write(tmp_path / "a.npy", claim + bytes(100))
    assert "damaged or truncated" in refused(str(tmp_path / "a.npy"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", claim + bytes(100))
    assert "its header says 64000000000000" in refused(str(tmp_path / "a.npz"))


def test_a_zip_without_arrays_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"")
    assert "holds no arrays" in refused(f"npz:{tmp_path / 'a.zip'}")


@pytest.mark.parametrize(("opener", "what"), [(open_npy, ".npy"), (open_npz, ".npz"), (open_idx, "IDX")])
def test_files_of_another_kind_are_called_by_their_name(tmp_path: Path, opener: Any, what: str) -> None:
    path = write(tmp_path / "a.bin", b"<!doctype html>")
    with pytest.raises(DataError, match=f"HTML page, not an image; an {what} file was expected"):
        opener(str(path))
    with pytest.raises(DataError, match="No such file"):
        opener(str(tmp_path / "missing"))
    with pytest.raises(DataError, match="is a folder"):
        opener(str(tmp_path))
    with pytest.raises(DataError, match="null"):
        opener("a\0b")


def test_large_arrays_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = npy(tmp_path / "a.npy", u8(9, 8, 8, 3))
    plain = open_source(spec)
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(memory, "CHUNK_BYTES", 400)
    mapped = open_source(spec)
    assert isinstance(mapped.pixels, np.memmap)
    assert mapped.fingerprint == plain.fingerprint


def test_arrays_are_brought_to_a_size(tmp_path: Path) -> None:
    array = np.full((2, 8, 12, 2), (7, 200), np.uint8)
    images = open_source(npy(tmp_path / "a.npy", array), 4)
    assert images.shape == (2, 4, 4)
    assert (images.pixels == np.array([7, 200]).reshape(1, 2, 1, 1)).all()
    assert images.notes == ("all images brought from 8x12 to 4x4 (shorter side resized, centre cut out)",)
    assert "ask for a size of at most 8" in refused(str(tmp_path / "a.npy"), 9)


def idx(array: npt.NDArray[Any], kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def mnist_like(folder: Path, packed: bool = False) -> tuple[Path, Images]:
    pack = gzip.compress if packed else bytes
    end = ".gz" if packed else ""
    write(folder / f"train-labels-idx1-ubyte{end}", pack(idx(np.array([3, 0, 1], np.uint8))))
    path = write(folder / f"train-images-idx3-ubyte{end}", pack(idx(u8(3, 5, 6))))
    return path, open_source(str(path))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_images_take_the_labels_beside_them(tmp_path: Path, packed: bool) -> None:
    path, images = mnist_like(tmp_path, packed)
    assert (images.pixels[:, 0] == u8(3, 5, 6)).all()
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0, 1]
    assert images.class_names == tuple("013")
    assert images.spec == f"idx:{path}"
    assert open_source(images.spec).fingerprint == images.fingerprint


def test_idx_labels_are_found_packed_or_not_and_may_be_absent(tmp_path: Path) -> None:
    write(tmp_path / "t10k-labels.idx1-ubyte", idx(np.array([1, 0], np.uint8)))
    path = write(tmp_path / "t10k-images.idx3-ubyte.gz", gzip.compress(idx(u8(2, 5, 6))))
    assert open_source(str(path)).labels is not None
    assert open_source(str(write(tmp_path / "other", idx(u8(2, 5, 6))))).labels is None


def test_idx_refusals(tmp_path: Path) -> None:
    path, _ = mnist_like(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    assert "holds 3 labels; give the file of the images" in refused(str(labels))
    labels.write_bytes(idx(np.zeros(4, np.uint8)))
    assert "3 images need [3]" in refused(str(path))
    labels.unlink()
    good = path.read_bytes()
    path.write_bytes(good[:-7])
    assert "7 of 90 bytes missing" in refused(str(path))
    path.write_bytes(good + b"\0")
    assert "goes on after" in refused(str(path))
    path.write_bytes(good[:9])
    assert "damaged or truncated" in refused(str(path))
    path.write_bytes(idx(u8(3, 5, 6).astype(">f4"), 13))
    assert "float32; they must be uint8" in refused(str(path))
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    assert "truncated" in refused(str(path))
    packed = gzip.compress(good)
    path.write_bytes(packed[:-12])
    assert "damaged or truncated" in refused(str(path))
    path.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**30, 2**10, 2**10)))
    assert "truncated" in refused(str(path))
    path.write_bytes(gzip.compress(b"no images"))
    assert "compressed file" in refused(str(path))


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    for good in (npy(tmp_path / "a.npy", u8(4, 8, 8)), npz(tmp_path / "a.npz", x=u8(4, 8, 8), y=np.arange(4)), None):
        content = Path(good).read_bytes() if good else idx(u8(2, 2, 5))
        for n in range(200):
            data = bytearray(content)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            path.write_bytes(data[: rng.integers(len(data))] if n % 3 == 0 else data)
            try:
                open_source(str(path))
            except DataError as error:
                assert str(error).isprintable()


def test_a_header_that_numpy_cannot_tokenize(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'shape': (4, 8, 8), 'fortran_order': False, ".ljust(117) + b"\n"
    write(tmp_path / "a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(256))
    assert "damaged or truncated" in refused(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(("shape", "channels"), [((4, 6, 8, 9), 6), ((4, 9, 8, 7), 7), ((4, 3, 8, 8), 3)])
def test_more_channels_than_colours(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    """An axis shorter than both others is the channels, first or last."""
    assert open_source(npy(tmp_path / "a.npy", u8(*shape))).shape[0] == channels
