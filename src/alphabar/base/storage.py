"""Every file operation of a run: write to a temporary name, fsync, rename, fsync the directory.

A file or directory either has its final name and is complete, or it does not have it. All writes pass through the few
functions at the top, so a test can fail or kill the process at each of them.
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
from pathlib import Path
from typing import Any

from alphabar.base.errors import CheckpointError, RunInUse, StorageError, printable

__all__ = [
    "Lock",
    "append_line",
    "commit_directory",
    "read_json",
    "remove",
    "sha256",
    "storage_errors",
    "truncate_lines",
    "write_file",
    "write_json",
]

TEMPORARY = ".tmp-"
MAX_JSON_BYTES = 64_000_000
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one-line ``StorageError``s that name ``path``."""
    try:
        yield
    except OSError as error:
        where = printable(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(_existing(path)).free / 1e6
            raise StorageError(f"{where}: no space left on device (free {free:.0f} MB); free some and go on") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{where}: {error.strerror}; choose another folder with --out") from error
        raise StorageError(f"{where}: {error.strerror or error}") from error


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents, Path("/")) if p.exists())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under its own name and force it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Force a file that another library wrote to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def remove(path: Path) -> None:
    """Remove a file or directory of ours; one that is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` so that a reader sees either the old file or the whole new one.

    Raises:
        StorageError: if the disk refuses; the old file is then intact.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
        try:
            write_bytes(temporary, data)
            rename(temporary, path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


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
def commit_directory(path: Path) -> Iterator[Path]:
    """A temporary directory to fill; on leaving it is forced to the disk and renamed to ``path`` in one step.

    A directory that is already called ``path`` is replaced. If the body raises, nothing appears under that name.

    Raises:
        StorageError: if the disk refuses; whatever was at ``path`` is then intact.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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


def _no_link(path: str, flags: int) -> int:
    """Open a file of ours. A run folder may come from somebody else, and its links lead anywhere."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. It is not forced to the disk: after a crash the log is cut back to the checkpoint."""
    with storage_errors(path), open(path, "a", encoding="utf-8", opener=_no_link) as file:
        file.write(line + "\n")


def truncate_lines(path: Path, keep: int) -> None:
    """Cut a log back to its first ``keep`` lines; a torn last line goes too. No file is no error."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")[:-1]
        if len(lines) > keep or not path.read_bytes().endswith(b"\n"):
            write_file(path, b"".join(line + b"\n" for line in lines[:keep]))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Lock:
    """The right to write in a run directory, held by one process at a time and freed by the system if it dies.

    Raises:
        RunInUse: if another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = open(directory / ".lock", "a+", opener=_no_link)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = printable(self._file.read(200).strip()) or "another process"
            self._file.close()
            raise RunInUse(f"{printable(directory)}: in use by {holder}; wait for it or give another --out") from None
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} since {time.strftime('%H:%M')}")
        self._file.flush()

    def release(self) -> None:
        """Give the right back."""
        self._file.close()

    def __enter__(self) -> Lock:
        """The lock itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release."""
        self.release()
