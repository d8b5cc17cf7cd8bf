"""Decoded images that are kept: used when nothing changed, never when anything did, and never when damaged."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from alphabar.data import Images, kept, open_source, scan
from alphabar.data.reading import Reading
from data.corpus import good
from data.pictures import encode, write


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    for n in range(30):
        write(tmp_path / "set" / "ab"[n % 2] / f"{n}.png", good(n))
    write(tmp_path / "set" / "a" / "bad.png", b"text")
    return tmp_path / "cache" / "decoded"


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, decodes: bool, reading: Reading | None = None) -> Images:
    """The set, with a check of whether files were decoded for it."""
    calls = []
    with monkeypatch.context() as patch:
        real = scan.decode_all
        patch.setattr(scan, "decode_all", lambda *given: calls.append(given) or real(*given))
        images = open_source(str(tmp_path / "set"), reading)
    assert bool(calls) == decodes
    return images


def test_the_second_start_decodes_nothing_and_gives_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tmp_path, monkeypatch, decodes=True)
    second = opened(tmp_path, monkeypatch, decodes=False)
    assert isinstance(second.pixels, np.memmap)
    assert second.fingerprint == first.fingerprint
    for name in ("class_names", "name", "spec", "notes", "reduced", "units", "survey"):
        assert getattr(first, name) == getattr(second, name)
    assert first.survey is not None and [bad.path for bad in first.survey.bad] == ["a/bad.png"]


@pytest.mark.parametrize("change", ["touch", "add", "remove", "rewrite", "size", "again"])
def test_any_change_decodes_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    opened(tmp_path, monkeypatch, decodes=True)
    file = tmp_path / "set" / "a" / "0.png"
    status = file.stat()
    if change == "touch":
        os.utime(file, ns=(0, 0))
    elif change == "add":
        write(tmp_path / "set" / "b" / "new.png", good(99))
    elif change == "remove":
        file.unlink()
    elif change == "rewrite":  # of the same size, with the time of the old one
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    reading = Reading(size=16 if change == "size" else None, again=change == "again")
    opened(tmp_path, monkeypatch, decodes=True, reading=reading)


@pytest.mark.parametrize("file", ["pixels.bin", "about"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_noticed_and_repaired(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, file: str, damage: str
) -> None:
    first = opened(tmp_path, monkeypatch, decodes=True)
    (entry,) = cache.iterdir()
    data = bytearray((entry / file).read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "gone":
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(data if damage == "flip" else data[:-1])
    assert opened(tmp_path, monkeypatch, decodes=True).fingerprint == first.fingerprint
    opened(tmp_path, monkeypatch, decodes=False)


def test_deleting_it_hurts_nobody(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path, monkeypatch, decodes=True)
    held = opened(tmp_path, monkeypatch, decodes=False)
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert held.fingerprint == opened(tmp_path, monkeypatch, decodes=True).fingerprint


def test_all_entries_stay_below_the_bound(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in (16, 8, 12):
        opened(tmp_path, monkeypatch, decodes=True, reading=Reading(size=side))
    old = {entry: (entry / "pixels.bin").stat().st_size for entry in cache.iterdir()}
    assert len(old) == 3
    oldest = min(old, key=lambda entry: old[entry])  # the one of side 8
    os.utime(oldest / "about", ns=(0, 0))
    monkeypatch.setattr(kept, "MOST_BYTES", sum(old.values()))
    opened(tmp_path, monkeypatch, decodes=True, reading=Reading(size=6))
    assert oldest not in set(cache.iterdir())
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    images = opened(tmp_path, monkeypatch, decodes=True, reading=Reading(size=5))
    assert any(note.startswith("the decoded images are not kept") for note in images.notes)


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "file", b"")
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "file"))
    images = opened(tmp_path, monkeypatch, decodes=True)
    assert any(note.startswith("the decoded images are not kept for the next start (") for note in images.notes)


def _open(path: str, results: multiprocessing.Queue[str]) -> None:
    results.put(open_source(path).fingerprint)


def test_two_processes_at_once_agree(tmp_path: Path, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    both = [context.Process(target=_open, args=(str(tmp_path / "set"), results)) for _ in range(2)]
    for process in both:
        process.start()
    assert results.get(timeout=100) == results.get(timeout=100)
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(list(cache.iterdir())) == 1


def test_a_bad_file_has_no_say_in_the_size(tmp_path: Path, cache: Path) -> None:
    """A truncated image of another size would make the set one of mixed sizes."""
    alone = open_source(str(tmp_path / "set"))
    write(tmp_path / "set" / "a" / "bad.png", encode(np.zeros((20, 20, 3), np.uint8))[:-20])
    with_bad = open_source(str(tmp_path / "set"))
    assert with_bad.survey is not None and len(with_bad.survey.bad) == 1
    assert with_bad.fingerprint == alone.fingerprint
