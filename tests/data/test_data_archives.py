"""Archives, tables of labels, shards and parquet: the same images as in a folder, and the labels they come with."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alphabar.base.errors import DataError
from alphabar.data import open_source
from alphabar.data.sources import archives
from data.corpus import good, tarred, zipped
from data.pictures import write

MEMBERS = [(f"{'ab'[n % 2]}/{n}.png", good(n)) for n in range(4)]


def refused(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        open_source(spec)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in MEMBERS:
        write(tmp_path / "folder" / name, data)
    return tmp_path / "folder"


@pytest.mark.parametrize("build", [zipped, tarred], ids=["zip", "tar"])
@pytest.mark.parametrize("top", ["", "./", "all/"])
def test_an_archive_is_the_folder_it_was_made_of(tmp_path: Path, folder: Path, build: Callable, top: str) -> None:
    images = open_source(str(build(*((top + name, data) for name, data in MEMBERS))(tmp_path)))
    plain = open_source(str(folder))
    assert images.fingerprint == plain.fingerprint
    assert (images.class_names, images.name) == (("a", "b"), "a")
    assert images.survey is not None and plain.survey is not None
    assert images.survey.files == plain.survey.files
    assert open_source(images.spec).fingerprint == plain.fingerprint
    assert sorted(os.listdir(tmp_path)) == sorted(["folder", "a.zip" if build is zipped else "a.tar"])


@pytest.mark.parametrize("how", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_the_same(tmp_path: Path, folder: Path, how: str) -> None:
    with tarfile.open(tmp_path / "x.bin", f"w:{how}") as archive:
        archive.add(folder, "folder")
    assert open_source(str(tmp_path / "x.bin")).fingerprint == open_source(str(folder)).fingerprint


def test_a_compressed_tar_may_not_explode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 1000)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 3_000_000
        archive.addfile(info, io.BytesIO(bytes(3_000_000)))
    assert "unpacks to more than 200 times its size" in refused(str(tmp_path / "x.tar.gz"))


def test_a_tar_without_its_end_is_noted(tmp_path: Path) -> None:
    path = tarred(*MEMBERS)(tmp_path)
    with tarfile.open(path) as archive:
        end = max(info.offset_data + -(-info.size // 512) * 512 for info in archive)
    path.write_bytes(path.read_bytes()[:end])
    assert "the tar has no end mark and may have lost files" in open_source(str(path)).notes


def shard(path: Path, first: int, kind: str) -> None:
    with tarfile.open(path, "w") as archive:
        for n in range(first, first + 3):
            label = str(n % 2) if kind == "cls" else json.dumps({"label": n % 2})
            for name, data in ((f"s{n}.png", good(n)), (f"s{n}.{kind}", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_are_one_set_with_the_labels_beside_the_images(tmp_path: Path, kind: str) -> None:
    for n in range(4):
        shard(tmp_path / f"d-{n:02}.tar", 3 * n, kind)
    images = open_source(f"{tmp_path}/d-{{01..02}}.tar")
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert images.notes == (f"labels from the .{kind} files",)
    assert images.name == "d"
    assert open_source(images.spec).fingerprint == images.fingerprint
    for spec in (f"{tmp_path}", f"{tmp_path}/d-*.tar", f"{tmp_path}/d-{{00,01,02,03}}.tar"):
        assert len(open_source(spec)) == 12
    assert "d-04.tar: No such file" in refused(f"{tmp_path}/d-{{03..07}}.tar")


@pytest.mark.parametrize("top", ["", "./", "all/", "./all/"])
def test_the_folders_in_shards_are_classes_and_the_shards_are_none(tmp_path: Path, folder: Path, top: str) -> None:
    (tmp_path / "set").mkdir()
    for n in range(2):
        members = [(top + name, data) for name, data in MEMBERS[2 * n : 2 * n + 2]]
        tarred(*members)(tmp_path).rename(tmp_path / "set" / f"d-{n}.tar")
    images, plain = open_source(str(tmp_path / "set")), open_source(str(folder))
    assert images.labels is not None and plain.labels is not None and images.survey is not None
    assert images.class_names == plain.class_names == ("a", "b")
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert (images.pixels == plain.pixels[[0, 2, 1, 3]]).all()
    inside = top.removeprefix("./")
    assert images.survey.files == tuple(f"d-{n // 2}.tar/{inside}{name}" for n, (name, _) in enumerate(MEMBERS))


def test_shards_without_folders_have_no_labels(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for n, top in enumerate(("", "./")):
        tarred((f"{top}0.png", good(n)))(tmp_path).rename(tmp_path / "set" / f"d-{n}.tar")
    images = open_source(str(tmp_path / "set"))
    assert (len(images), images.labels, images.class_names, images.notes) == (2, None, (), ())


def test_a_table_gives_the_labels(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / "x" / f"{n}.png", good(n))
    table = write(tmp_path / "x" / "labels.csv", b"label,File\ncat,0.png\nant,./1.png\ncat,2.png\ndog,9.png\n")
    images = open_source(str(tmp_path / "x"))
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([1, 0, 1], ("ant", "cat"))
    assert images.notes == ("labels from labels.csv", "1 label without an image (such as 9.png, labels.csv line 5)")
    table.write_bytes(b"file_name,class\n0.png,3\n1.png,0\n2.png,3\n")
    images = open_source(str(tmp_path / "x"))
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([1, 0, 1], ("0", "3"))
    assert images.notes[-1] == (
        "no image has the label 1: only labels that occur are classes, numbered from 0 (label 3 is class 1)"
    )
    table.rename(table.with_name("metadata.csv"))
    assert open_source(str(tmp_path / "x")).fingerprint == images.fingerprint
    members = [(f"x/{path.name}", path.read_bytes()) for path in (tmp_path / "x").iterdir()]
    assert open_source(str(zipped(*members)(tmp_path))).fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"file,label\n0.png\n", "line 2 has 1 cell and not 2"),
        (b"file,label\n0.png,a\n,b\n1.png,\n", "line 3 has no file, line 4 has no label"),
        (b"file,label\n0.png,a\n0.png,b\n", "line 3 gives 0.png a second label"),
        (b"name,label\n", "its columns are name, label; needed are one of file, file_name"),
        (b"", "its columns are missing"),
        (b"file,label\n\xff,a\n", "not UTF-8 text (byte 11)"),
        (b'file,label\n"0.png,a\n', "line 2: unexpected end of data"),
        (b"file,label\n0.png,a\n", "1.png (has no label in labels.csv)"),
        (b"file,label\n0.png,1\n1.png,999999\n", "class 999,999; number the classes from 0"),
    ],
)
def test_wrong_rows_are_named_with_their_line(tmp_path: Path, table: bytes, words: str) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.png", good(n))
    write(tmp_path / "labels.csv", table)
    assert words in refused(str(tmp_path))


def test_a_table_without_labels_is_ignored(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.png", good(n))
    write(tmp_path / "metadata.csv", b"file_name,caption\n0.png,a cat\n")
    images = open_source(str(tmp_path))
    assert images.labels is None
    assert images.notes == ("1 other file ignored (such as metadata.csv)",)


def test_parquet_and_saved_data_sets(tmp_path: Path, folder: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": data, "path": None} for _, data in MEMBERS],
            "label": [n % 2 for n in range(4)],
        }
    ).replace_schema_metadata({"huggingface": json.dumps(names)})
    (tmp_path / "set" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 3), tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "saved").mkdir()
    with pa.OSFile(str(tmp_path / "saved" / "data-00000-of-00001.arrow"), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    for spec in (tmp_path / "set", tmp_path / "saved"):
        images = open_source(str(spec))
        assert images.labels is not None
        assert (images.labels.tolist(), images.class_names) == ([0, 1, 0, 1], ("ant", "bee"))
        assert (images.pixels == np.stack([open_one(data) for _, data in MEMBERS])).all()
        assert open_source(images.spec).fingerprint == images.fingerprint
    assert len(open_source(f"{tmp_path / 'set'}#test")) == 3
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((tmp_path / "set" / "data" / "train-00000-of-00001.parquet").read_bytes()[:500])
    assert "broken.parquet: damaged or truncated table" in refused(str(broken))
    pq.write_table(pa.table({"text": ["a"]}), broken)
    assert "its columns are text; the images must be in one of image, img" in refused(str(broken))


def test_tables_of_one_name_in_different_folders_keep_their_images(tmp_path: Path) -> None:
    names = [f"{folder}/train-0.{kind}" for folder in ("en", "fr") for kind in ("arrow", "parquet")]
    for n, name in enumerate(names):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": [good(2 * n), good(2 * n + 1)], "label": [n, n]})
        if name.endswith(".parquet"):
            pq.write_table(table, tmp_path / "set" / name)
        else:
            with pa.ipc.new_stream(str(tmp_path / "set" / name), table.schema) as writer:
                writer.write_table(table)
    images = open_source(f"hub:{tmp_path / 'set'}")
    assert images.labels is not None and images.survey is not None
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (images.pixels == np.stack([open_one(good(n)) for n in range(8)])).all()
    assert images.survey.files == tuple(f"{name}:{row:07}" for name in names for row in range(2))


def test_the_folders_of_tables_are_no_classes(tmp_path: Path) -> None:
    for folder in ("en", "fr"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        pq.write_table(pa.table({"image": [good(len(folder))]}), tmp_path / "set" / folder / "train-0.parquet")
    images = open_source(f"hub:{tmp_path / 'set'}")
    assert (len(images), images.labels, images.class_names) == (2, None, ())


def test_the_names_of_classes_that_a_table_knows_are_kept(tmp_path: Path) -> None:
    """Also those that no image has: they are of the data set, of which this may be a part."""
    names = {"info": {"features": {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [good(0), good(1)], "label": [2, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "train.parquet")
    images = open_source(str(tmp_path / "train.parquet"))
    assert images.labels is not None
    assert (images.labels.tolist(), images.class_names) == ([2, 1], ("ant", "bee", "cow"))
    assert images.notes[0] == "labels from column label" and not any("classes" in note for note in images.notes)


def open_one(data: bytes) -> np.ndarray:
    from alphabar.data.decode import decode
    from alphabar.data.sniff import sniff

    return decode(data, sniff(data)).pixels.transpose(2, 0, 1)
