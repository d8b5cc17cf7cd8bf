"""The log: whole lines in order, none lost and none twice, whatever the disk does."""

from __future__ import annotations

import errno
import os

import pytest

from alphabar.base import storage
from alphabar.base.errors import StorageError
from alphabar.base.journal import Journal
from tiny import files


@pytest.mark.parametrize(
    ("before", "keep", "after"),
    [
        (b"1\n2\n3\n", 2, b"1\n2\n"),
        (b"1\n2\n3\n", 3, b"1\n2\n3\n"),
        (b"1\n2\n3\n", 9, b"1\n2\n3\n"),
        (b"1\n2\n3", 9, b"1\n2\n"),
        (b"1\n2\n3", 2, b"1\n2\n"),
        (b"1\n2\n3", 1, b"1\n"),
        (b"1\n2\n", 0, b""),
        (b"torn", 0, b""),
        (b"", 3, b""),
        (b"1\n\n3\n", 2, b"1\n\n"),
        ("ü\u2028x\n2\n".encode(), 1, "ü\u2028x\n".encode()),
        (b"1\r\n2\n", 1, b"1\r\n"),
    ],
)
def test_a_log_is_cut_back_and_a_torn_line_goes(tmp_path, before, keep, after):
    path = tmp_path / "log"
    path.write_bytes(before)
    assert Journal(path, keep).lines == after.count(b"\n")
    assert files(tmp_path) == {"log": after}


def test_no_log_is_an_empty_one(tmp_path):
    journal = Journal(tmp_path / "log", 3)
    journal.sync()
    assert journal.lines == 0 and os.listdir(tmp_path) == []


def test_lines_are_added_after_those_that_were_kept(tmp_path):
    (tmp_path / "log").write_bytes(b"1\n2\n3\n")
    journal = Journal(tmp_path / "log", 2)
    for line in ("drei", "zwölf"):
        journal.add(line)
    assert journal.lines == 4
    assert (tmp_path / "log").read_bytes() == "1\n2\ndrei\nzwölf\n".encode()


def test_cutting_back_needs_no_room(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"1\n2\n")

    def refused(file, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(storage, "put", refused)
    Journal(tmp_path / "log", 1)
    assert (tmp_path / "log").read_bytes() == b"1\n"


@pytest.mark.parametrize("written", [0, 1, 4])
def test_refused_lines_wait_and_leave_no_torn_one(tmp_path, monkeypatch, written):
    """The disk takes some bytes of a line, then none, then all."""
    path = tmp_path / "log"
    journal = Journal(path, 0)
    journal.add("first")
    put = storage.put

    def refused(file, data):
        put(file, data[:written])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(storage, "put", refused)
    for line in ("second", "third"):
        with pytest.raises(StorageError, match="log: no space left on device"):
            journal.add(line)
        assert path.read_bytes() == b"first\n"
    with pytest.raises(StorageError):
        journal.sync()
    assert journal.lines == 3
    monkeypatch.setattr(storage, "put", put)
    journal.add("fourth")
    assert path.read_bytes() == b"first\nsecond\nthird\nfourth\n" and journal.lines == 4


def test_a_torn_line_that_could_not_be_cut_off_goes_with_the_next(tmp_path, monkeypatch):
    path = tmp_path / "log"
    journal = Journal(path, 0)
    journal.add("first")
    put, cut = storage.put, storage.cut

    def refused(file, data):
        put(file, data[:2])
        raise OSError(errno.EIO, "broken")

    def fails_too(path, size):
        if path.stat().st_size > size:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(storage, "put", refused)
    monkeypatch.setattr(storage, "cut", fails_too)
    with pytest.raises(StorageError, match="broken"):
        journal.add("second")
    assert path.read_bytes() == b"first\nse"
    monkeypatch.setattr(storage, "put", put)
    monkeypatch.setattr(storage, "cut", cut)
    journal.add("third")
    assert path.read_bytes() == b"first\nsecond\nthird\n"


def test_sync_forces_the_lines_and_once_the_name_to_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(storage, "sync_file", synced.append)
    monkeypatch.setattr(storage, "sync_directory", synced.append)
    journal = Journal(tmp_path / "log", 0)
    journal.add("line")
    assert synced == []
    journal.sync()
    assert synced == [tmp_path / "log", tmp_path], "without its name a file is lost in a power cut"
    journal.sync()
    assert synced == [tmp_path / "log", tmp_path, tmp_path / "log"]
