"""File operations: after any failure or death there is the old state or the new one, never a third."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alphabar.base import storage
from alphabar.base.errors import CheckpointError, RunInUse, StorageError
from tiny import files

OPERATIONS = ("write_bytes", "sync_file", "sync_directory", "rename", "exchange", "remove")
OLD, NEW = {"a": b"old", "b": b"old too"}, {"a": b"new", "c": b"new too"}


def fail_at(monkeypatch, number, names=OPERATIONS, code=errno.ENOSPC):
    """Let the ``number``-th file operation raise; returns the list of those that were asked for."""
    asked = []

    def wrap(name, real):
        def operation(*arguments):
            asked.append(name)
            if len(asked) == number:
                if name == "write_bytes":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        return operation

    for name in names:
        monkeypatch.setattr(storage, name, wrap(name, getattr(storage, name)))
    return asked


def commit(path, content):
    with storage.commit_directory(path) as folder:
        for name, data in content.items():
            storage.write_bytes(folder / name, data)


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(storage.TEMPORARY)]


def test_write_file_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    storage.write_file(path, b"one")
    storage.write_file(path, b"two")
    assert files(tmp_path) == {"a/b/file": b"two"}


@pytest.mark.parametrize("number", range(1, 6))
def test_write_file_leaves_old_or_new(tmp_path, monkeypatch, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    asked = fail_at(monkeypatch, number)
    if number == 5:
        storage.write_file(path, b"brand new")
        assert asked == ["write_bytes", "sync_file", "rename", "sync_directory"]
    else:
        with pytest.raises(StorageError) as caught:
            storage.write_file(path, b"brand new")
        assert caught.value.exit_code == 5
    assert path.read_bytes() == (b"old" if number < 4 else b"brand new")
    assert leftovers(tmp_path) == []


def test_commit_directory_commits_and_replaces(tmp_path):
    commit(tmp_path / "x", OLD)
    assert files(tmp_path / "x") == OLD
    commit(tmp_path / "x", NEW)
    assert files(tmp_path / "x") == NEW and os.listdir(tmp_path) == ["x"]


def test_a_body_that_raises_leaves_no_trace(tmp_path):
    with pytest.raises(KeyError), storage.commit_directory(tmp_path / "x") as folder:
        storage.write_bytes(folder / "a", b"half")
        raise KeyError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", range(1, 12))
def test_commit_directory_appears_whole_or_not_at_all(tmp_path, monkeypatch, number):
    path = tmp_path / "x"
    asked = fail_at(monkeypatch, number, OPERATIONS[:5])
    try:
        commit(path, NEW)
    except StorageError as error:
        assert error.exit_code == 5 and "no space left" in str(error)
    else:
        assert len(asked) < number
    assert not path.exists() or files(path) == NEW
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", range(1, 12))
def test_a_failed_replacement_leaves_old_or_new_under_the_name(tmp_path, monkeypatch, number):
    path = tmp_path / "x"
    commit(path, OLD)
    asked = fail_at(monkeypatch, number, OPERATIONS[:5])
    try:
        commit(path, NEW)
    except StorageError as error:
        assert error.exit_code == 5
    else:
        assert len(asked) < number and files(path) == NEW
    assert path.exists(), f"nothing is called x after {asked} failed"
    assert files(path) in (OLD, NEW)
    assert leftovers(tmp_path) == []


DIE = """
import os, signal, sys
from pathlib import Path
from alphabar.base import storage
path, number, count = Path(sys.argv[1]), int(sys.argv[2]), 0
def wrap(real):
    def operation(*arguments):
        global count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return operation
for name in ("write_bytes", "sync_file", "sync_directory", "rename", "exchange"):
    setattr(storage, name, wrap(getattr(storage, name)))
with storage.commit_directory(path) as folder:
    storage.write_bytes(folder / "a", b"new")
    storage.write_bytes(folder / "c", b"new too")
"""


def test_a_process_killed_at_any_operation_leaves_old_or_new(tmp_path):
    wrong = []
    running = []
    for number in range(1, 10):
        path = tmp_path / str(number) / "x"
        commit(path, OLD)
        running.append((number, path, subprocess.Popen([sys.executable, "-c", DIE, str(path), str(number)])))
    for number, path, process in running:
        code = process.wait(60)
        assert code in (0, -signal.SIGKILL)
        if not path.exists() or files(path) not in (OLD, NEW):
            wrong.append(number)
        if code == 0:
            assert files(path) == NEW
    assert running[0][2].returncode and not running[-1][2].returncode, "the numbers do not span all operations"
    assert not wrong, f"killed at operation {wrong}: what was called x is gone"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, ["no space left", "MB"]),
        (errno.EDQUOT, ["no space left"]),
        (errno.EACCES, ["Permission denied", "--out"]),
        (errno.EROFS, ["Read-only", "--out"]),
        (errno.EIO, ["Input/output error"]),
    ],
)
def test_refusals_become_one_line_that_names_the_path(tmp_path, monkeypatch, code, words):
    fail_at(monkeypatch, 1, code=code)
    with pytest.raises(StorageError) as caught:
        storage.write_file(tmp_path / "new" / "evil\nname", b"x")
    text = str(caught.value)
    assert caught.value.exit_code == 5 and text.isprintable() and "evil\\nname" in text
    assert all(word in text for word in words), text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_really_full_is_reported():
    with pytest.raises(StorageError, match="no space left"):
        storage.write_at(Path("/dev/full"), 0, b"x")


def test_a_path_below_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError, match="file"):
        storage.write_file(tmp_path / "file" / "below", b"x")
    with pytest.raises(StorageError, match="file"):
        commit(tmp_path / "file" / "below", NEW)
    with pytest.raises(StorageError, match="file"):
        storage.Lock(tmp_path / "file")
    assert files(tmp_path) == {"file": b"kept"}


def test_json_round_trips_and_refuses_nan(tmp_path):
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": [1, 2.5, None, "ö"]})
    assert storage.read_json(path) == {"a": [1, 2.5, None, "ö"]}
    with pytest.raises(ValueError, match=r"(?i)not JSON compliant"):
        storage.write_json(path, float("nan"))
    assert storage.read_json(path) == {"a": [1, 2.5, None, "ö"]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}}', b"[" * 100_000])
def test_what_is_no_json_is_a_checkpoint_error(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.json"):
        storage.read_json(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match="missing"):
        storage.read_json(tmp_path / "missing.json")


def test_sha256_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert storage.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_write_at_replaces_what_follows(tmp_path):
    path = tmp_path / "log"
    assert storage.write_at(path, 0, b"one\n") == 4
    assert storage.write_at(path, 4, "zwölf\n".encode()) == 11
    assert storage.write_at(path, 4, b"two\n") == 8
    assert files(tmp_path) == {"log": b"one\ntwo\n"}
    path.unlink()
    assert storage.write_at(path, 8, b"three\n") == 6, "a file that was taken away begins anew, without a hole"
    assert files(tmp_path) == {"log": b"three\n"}


def test_what_did_not_change_is_not_written(tmp_path, monkeypatch):
    storage.write_changed(tmp_path / "a", b"one")
    storage.write_changed(tmp_path / "a", b"two")
    fail_at(monkeypatch, 1)
    storage.write_changed(tmp_path / "a", b"two")
    assert files(tmp_path) == {"a": b"two"}
    with pytest.raises(StorageError):
        storage.write_changed(tmp_path / "a", b"three")


def test_cut_leaves_shorter_files_and_devices_alone(tmp_path):
    (tmp_path / "log").write_bytes(b"12345")
    for size, left in ((9, b"12345"), (5, b"12345"), (2, b"12")):
        storage.cut(tmp_path / "log", size)
        assert (tmp_path / "log").read_bytes() == left
    storage.cut(tmp_path / "none", 3)
    storage.cut(Path(os.devnull), 0)
    assert os.listdir(tmp_path) == ["log"]


def test_a_loose_file_is_whole_or_not_there(tmp_path, monkeypatch):
    storage.write_loose(tmp_path / "a", b"abc")
    assert files(tmp_path) == {"a": b"abc"}

    def put(file, data):
        file.write(data[:1])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(storage, "put", put)
    with pytest.raises(StorageError, match=r"b: no space left on device \(need 2e-06 MB, free .* MB\)"):
        storage.write_loose(tmp_path / "b", b"ab")
    assert files(tmp_path) == {"a": b"abc"}


def test_the_need_of_a_directory_is_said(tmp_path, monkeypatch):
    fail_at(monkeypatch, 1)
    with pytest.raises(StorageError, match="need 412 MB, free"), storage.commit_directory(tmp_path / "x", 412_000_000):
        pass


def test_new_directories_are_forced_to_the_disk_from_the_top(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(storage, "sync_directory", synced.append)
    storage.make_directory(tmp_path / "a" / "b")
    storage.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_directory_loses_its_name_before_its_files(tmp_path, monkeypatch):
    commit(tmp_path / "x", OLD)
    monkeypatch.setattr(storage.shutil, "rmtree", lambda path, ignore_errors: None)
    storage.remove(tmp_path / "x")
    assert os.listdir(tmp_path) == leftovers(tmp_path) and len(leftovers(tmp_path)) == 1


def test_places_that_cannot_be_written_are_found_early(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    storage.check_writable(tmp_path / "new" / "below")
    with pytest.raises(StorageError, match=r"file: is a file"):
        storage.check_writable(tmp_path / "file" / "below")
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=r"not writable.*--out"):
        storage.check_writable(tmp_path / "new")


HOLD = """
import sys, time
from pathlib import Path
from alphabar.base.storage import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_exclusive_and_freed_by_death(tmp_path):
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):
            with pytest.raises(RunInUse, match=f"in use.*{holder.pid}") as caught:
                storage.Lock(run)
            assert caught.value.exit_code == 7
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert storage.holder(run) is None, "the dead holder's words are still in the file"
    with storage.Lock(run):
        assert str(os.getpid()) in (run / ".lock").read_text()
        assert str(os.getpid()) in storage.holder(run)


def test_who_asks_for_the_holder_does_not_keep_a_run_from_starting(tmp_path, monkeypatch):
    """Asking takes the lock for a moment; whoever wants to hold it meanwhile waits that long."""
    asking = (tmp_path / ".lock").open("a+")
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: asking.close())
    with storage.Lock(tmp_path):
        assert storage.holder(tmp_path) == (tmp_path / ".lock").read_text()
    assert storage.holder(tmp_path / "nowhere") is None and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("taken", [False, True])
def test_a_lock_is_on_the_folder_that_has_the_name_when_it_is_taken(tmp_path, monkeypatch, taken):
    """Whoever starts over renames the folder with the lock in it, while others wait for that lock."""
    run, first, sleep, held = tmp_path / "run", storage.Lock(tmp_path / "run"), storage.time.sleep, []

    def start_over(seconds):
        monkeypatch.setattr(storage.time, "sleep", sleep)
        storage.rename(run, tmp_path / "old")
        first.release()
        if taken:
            held.append(storage.Lock(run))

    monkeypatch.setattr(storage.time, "sleep", start_over)
    if taken:
        with pytest.raises(RunInUse, match=str(os.getpid())):
            storage.Lock(run)
    else:
        held.append(storage.Lock(run))
    assert storage.holder(run) and not storage.holder(tmp_path / "old")
    with pytest.raises(RunInUse):
        storage.Lock(run)
    held[0].release()
    assert not storage.holder(run)


def test_a_lock_is_exclusive_within_a_process_and_can_be_given_back(tmp_path):
    with storage.Lock(tmp_path), pytest.raises(RunInUse, match=str(os.getpid())):
        storage.Lock(tmp_path)
    with storage.Lock(tmp_path):
        pass
