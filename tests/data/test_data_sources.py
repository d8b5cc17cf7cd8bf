"""Which source a text means, the contract of every source, and the embedded digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alphabar.base.errors import ConfigError, DataError
from alphabar.data import SOURCES, Images, open_source
from alphabar.data.reading import Reading
from data.corpus import tarred, zipped
from data.pictures import encode, rgb, write


def refused(spec: str, size: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_source(spec, size)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    raw, target = datasets.load_digits(return_X_y=True)
    images = open_source("digits")
    assert (images.pixels.reshape(1797, 64) == np.floor(raw * 255 / 16 + 0.5)).all()
    assert images.labels is not None
    assert (images.labels == target).all()


def test_digits_say_who_they_are() -> None:
    images = open_source("digits")
    assert (len(images), images.shape) == (1797, (1, 8, 8))
    assert (images.pixels.min(), images.pixels.max()) == (0, 255)
    assert (images.name, images.spec, images.class_names) == ("digits", "digits", tuple("0123456789"))
    assert open_source("digits:").fingerprint == images.fingerprint
    assert "write digits alone" in refused("digits:/somewhere")
    assert "ask for a size of at most 8" in refused("digits", 32)
    assert open_source("digits", 8).notes == ()
    assert open_source("digits", 4).shape == (1, 4, 4)


def test_sklearn_is_not_imported() -> None:
    code = "import sys; from alphabar.data import open_source; open_source('digits'); print('sklearn' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def make(kind: str, folder: Path) -> str:
    if kind == "folder":
        for n in range(4):
            write(folder / "set" / "ab"[n % 2] / f"{n}.png", encode(rgb(n)))
        return str(folder / "set")
    if kind in ("zip", "tar"):
        build = zipped if kind == "zip" else tarred
        return str(build(*((f"{'ab'[n % 2]}/{n}.png", encode(rgb(n))) for n in range(4)))(folder))
    if kind == "hub":
        table = pa.table({"image": [{"bytes": encode(rgb(n)), "path": None} for n in range(4)]})
        pq.write_table(table, folder / "set.parquet")
        return str(folder / "set.parquet")
    if kind == "npz":
        np.savez(folder / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
        return str(folder / "a.npz")
    if kind == "npy":
        np.save(folder / "a.npy", np.zeros((4, 8, 8), np.uint8))
        return str(folder / "a.npy")
    if kind == "idx":
        return str(write(folder / "i", bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 5]) + bytes(20)))
    if kind == "cifar10":
        for n in range(1, 6):
            write(folder / "c" / f"data_batch_{n}.bin", bytes(3073))
        return str(folder / "c")
    return ""


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_keeps_the_contract(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(kind, tmp_path)
    images = open_source(f"{kind}:{path}")
    assert isinstance(images, Images)
    assert images.pixels.dtype == np.uint8
    assert images.pixels.flags.c_contiguous
    assert (images.labels is None) == (images.class_names == ())
    assert all(note.isprintable() for note in images.notes)
    assert images.spec.startswith(kind)
    monkeypatch.chdir("/")
    assert open_source(images.spec).fingerprint == images.fingerprint
    if path:
        detected = open_source(path)
        assert (detected.spec, detected.fingerprint) == (images.spec, images.fingerprint)
        monkeypatch.chdir(os.path.dirname(path))
        assert open_source(os.path.basename(path)).spec == images.spec
        with pytest.raises(DataError):
            open_source(f"{kind}:{tmp_path}/missing")
        assert f"write {kind}:PATH" in refused(f"{kind}:")
    with pytest.raises(ConfigError, match="size = 0"):
        open_source(f"{kind}:{path}", 0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digit", "'digit': no such file or folder (did you mean 'digits'?)"),
        (
            "foldr:/tmp",
            "'foldr' is not one of the kinds digits, folder, zip, tar, hub, npz, npy, idx, cifar10 (did you mean "
            "'folder'?)",
        ),
        ("nosuchkind:/tmp", "'nosuchkind' is not one of the kinds"),
        ("/no/such/place", "'/no/such/place': no such file or folder; give a path, kind:path or digits"),
        ("", "'': no such file or folder"),
        ("a\0b", r"'a\x00b': no such file or folder"),
        ("\x1b[31m", r"\x1b[31m"),
        ("folder", "the kind folder needs a path; write folder:PATH"),
    ],
)
def test_what_means_nothing_is_refused_with_the_nearest(spec: str, words: str) -> None:
    assert words in refused(spec)


def test_a_path_of_the_name_of_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "npz" / "a.png")
    assert open_source("npz").spec == f"folder:{tmp_path}/npz"
    write(tmp_path / "odd:name" / "a.png")
    assert open_source("odd:name").spec == f"folder:{tmp_path}/odd:name"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file; give a folder or archive of images, npz, npy, IDX or CIFAR-10"),
        (b"just text", "text, not an image; give a folder"),
        (encode(rgb()), "PNG image; give the folder that holds it"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer; run git lfs pull"),
        (b"\x1f\x8b\x08\0garbage", "compressed file"),
        (b"\x80\x04\x95pickle\0", "not an image (starts with 80 04 95 70)"),
    ],
)
def test_files_of_no_known_kind(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(str(write(tmp_path / "file", content)))


def test_a_fifo_and_a_dead_link_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a folder, FIFO or device" in refused(str(tmp_path / "pipe"))
    (tmp_path / "dead").symlink_to("gone")
    assert "No such file" in refused(str(tmp_path / "dead"))


def test_plug_ins_are_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    def opener(path: str, reading: Reading) -> Images:
        return Images(np.zeros((2, 1, 4, 4), np.uint8), None, (), "noise", f"noise:{path}")

    def plugins() -> dict[str, Any]:
        return {"noise": opener}

    monkeypatch.setattr(SOURCES, "_plugins", plugins)
    assert open_source("noise:x").spec == "noise:x"
    assert open_source("noise:x", 2).shape == (1, 2, 2)
