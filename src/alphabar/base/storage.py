"""Every file operation of a run: write to a temporary name, fsync, rename, fsync the directory.

A file or directory either has its final name and is complete, or it does not have it. All bytes pass through
:func:`put` and all names through the functions beside it, so a test can fail or kill the process at each of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from alphabar.base.errors import CheckpointError, RunInUse, StorageError, printable

__all__ = [
    "Lock",
    "check_writable",
    "commit_directory",
    "cut",
    "holder",
    "make_directory",
    "read_json",
    "remove",
    "rename",
    "sha256",
    "storage_errors",
    "sync_file",
    "write_at",
    "write_bytes",
    "write_changed",
    "write_file",
    "write_json",
    "write_loose",
]

TEMPORARY = ".tmp-"
MAX_JSON_BYTES = 64_000_000
AT_FDCWD, RENAME_EXCHANGE = -100, 2
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
LOCK_PATIENCE = 0.2  # seconds: whoever asks for the holder of a lock holds it for a moment


@contextlib.contextmanager
def storage_errors(path: Path, need: int | None = None) -> Iterator[None]:
    """Turn the operating system's refusals into one-line ``StorageError``s that name ``path``.

    ``need`` is how many bytes were to be written, for the message of a full disk.
    """
    try:
        yield
    except OSError as error:
        where = printable(path)
        if error.errno in FULL:
            free = _megabytes(shutil.disk_usage(_existing(path)).free)
            space = f"free {free}" if need is None else f"need {_megabytes(need)}, free {free}"
            raise StorageError(f"{where}: no space left on device ({space}); make room on the disk") from error
        if error.errno in REFUSED:
            raise StorageError(f"{where}: {error.strerror}; make it writable or give another --out") from error
        raise StorageError(f"{where}: {error.strerror or error}") from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e6:,.0f} MB"


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def check_writable(path: Path) -> None:
    """Raise early if nothing can be written at ``path``, a folder that may not exist yet.

    Raises:
        StorageError: if it is a file, read-only, or not permitted.
    """
    place = _existing(path)
    if not place.is_dir():
        raise StorageError(f"{printable(place)}: is a file; give a folder to --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{printable(place)}: not writable; give another folder to --out")


def put(file: FileIO, data: bytes) -> None:
    """All of ``data`` into an unbuffered file: the one place where bytes leave the process."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under its own name, without forcing it to the disk: whoever commits it does that."""
    with path.open("wb", buffering=0) as file:
        put(file, data)


def write_loose(path: Path, data: bytes) -> None:
    """Write one of many files that need not survive a power cut; where it cannot be finished, nothing is left.

    Raises:
        StorageError: if the disk refuses.
    """
    with storage_errors(path, len(data)):
        try:
            with path.open("wb", buffering=0) as file:
                put(file, data)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _no_link(path: str, flags: int) -> int:
    """Open a file of ours. A run folder may come from somebody else, and its links lead anywhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_at(path: Path, position: int, data: bytes) -> int:
    """Make ``data`` all that follows the first ``position`` bytes of a file; returns where it ends.

    The file is not forced to the disk. Where ``data`` does not fit, the file ends at ``position`` as before.

    Raises:
        StorageError: if the disk refuses.
    """
    with storage_errors(path, len(data)), open(path, "ab", buffering=0, opener=_no_link) as file:
        start = min(position, file.seek(0, os.SEEK_END))
        try:
            cut(path, start)
            put(file, data)
        except OSError:
            with contextlib.suppress(OSError):
                cut(path, start)
            raise
        return start + len(data)


def cut(path: Path, size: int) -> None:
    """Make a file end after ``size`` bytes, which needs no space on a full disk. Device files stay as they are."""
    if path.is_file() and path.stat().st_size > size:
        with open(path, "r+b", opener=_no_link) as file:
            file.truncate(size)


def sync_file(path: Path) -> None:
    """Force the bytes of a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, with their names forced to the disk: else a power cut loses all in them."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def rename(old: Path, new: Path) -> None:
    """Give ``old`` its final name in one step, replacing a file of that name."""
    os.replace(old, new)


def exchange(one: Path, other: Path) -> None:
    """Swap the names of two directories in one step where the system can (Linux), in two elsewhere."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None and swap(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    aside = one.with_name(f"{one.name}-aside")
    rename(other, aside)
    try:
        rename(one, other)
    except OSError:
        rename(aside, other)
        raise
    rename(aside, one)


def unused(path: Path) -> Path:
    """``path-1``, or the first of ``path-2``, … that does not exist."""
    number = 1
    while (free := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return free


def remove(path: Path) -> None:
    """Remove a file or directory of ours; one that is gone already is no error.

    A directory first loses its name: half of one must not pass for the whole.
    """
    if path.is_dir() and not path.is_symlink():
        doomed = path
        if not path.name.startswith(TEMPORARY):
            doomed = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
            rename(path, doomed)
        try:
            sync_directory(path.parent)
        finally:
            shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader sees either the old file or the whole new one.

    Raises:
        StorageError: if the disk refuses; the old file is then intact.
    """
    with storage_errors(path, len(data)):
        make_directory(path.parent)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
        try:
            write_bytes(temporary, data)
            sync_file(temporary)
            rename(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_changed(path: Path, data: bytes) -> None:
    """:func:`write_file` where the file is not the same already, which needs no room on the disk.

    Raises:
        StorageError: if the disk refuses; the old file is then intact.
    """
    with storage_errors(path):
        same = path.is_file() and path.read_bytes() == data
    if not same:
        write_file(path, data)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_file` of ``value`` as JSON (NaN and infinity are refused)."""
    write_file(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in the regular file ``path`` of at most 64 MB.

    Raises:
        CheckpointError: if it cannot be read or is no JSON.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{printable(path)}: is no regular file")
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise CheckpointError(f"{printable(path)}: larger than {MAX_JSON_BYTES:,} bytes, which none of ours is")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{printable(path)}: not readable as JSON ({printable(error)})") from error


@contextlib.contextmanager
def commit_directory(path: Path, need: int | None = None) -> Iterator[Path]:
    """A temporary directory to fill; on leaving it is forced to the disk and renamed to ``path`` in one step.

    A directory that is already called ``path`` is replaced. If the body raises, nothing appears under that name.
    ``need`` is how many bytes the body writes, for the message of a full disk.

    Raises:
        StorageError: if the disk refuses; whatever was at ``path`` is then intact.
    """
    with storage_errors(path, need):
        make_directory(path.parent)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
        remove(temporary)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.iterdir()):
                sync_file(file)
            sync_directory(temporary)
            if path.exists():
                exchange(temporary, path)
            else:
                rename(temporary, path)
            sync_directory(path.parent)
        finally:
            remove(temporary)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Lock:
    """The right to write in a run directory, held by one process at a time and freed by the system if it dies.

    Raises:
        RunInUse: if another process holds it.
        StorageError: if the disk refuses.
    """

    def __init__(self, directory: Path) -> None:
        with storage_errors(directory):
            until = time.monotonic() + LOCK_PATIENCE
            while not self._taken(directory):
                if time.monotonic() > until:
                    raise in_use(directory, holder(directory) or "")
                time.sleep(LOCK_PATIENCE / 10)
        # who holds it is for people; a full disk may refuse it
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            self._file.write(f"pid {os.getpid()} since {time.strftime('%H:%M')}")
            self._file.flush()

    def _taken(self, directory: Path) -> bool:
        """Try once; what counts is the lock in the folder that has the name now, and starting over renames the old."""
        make_directory(directory)
        path = directory / ".lock"
        self._file = open(path, "a+", opener=_no_link)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(path)):
                return True
        self._file.close()
        return False

    def release(self) -> None:
        """Give the right back."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Lock:
        """The lock itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release."""
        self.release()


def in_use(directory: Path, holder: str) -> RunInUse:
    """The error that names a directory and who holds its lock."""
    who = printable(holder.strip()) or "another process"
    return RunInUse(f"{printable(directory)}: in use by {who}; wait for it or give another --out")


def holder(directory: Path) -> str | None:
    """Who holds the lock of a directory, as its holder wrote it; None if it is free. Writes nothing."""
    try:
        with (directory / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(200).strip() or "another process"
    except OSError:
        return None
    return None
