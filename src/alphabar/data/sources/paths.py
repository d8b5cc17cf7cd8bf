"""What the sources share in reading paths: what is there, and the part after ``#``."""

from __future__ import annotations

import os
import stat

from alphabar.base.errors import DataError, printable
from alphabar.base.registry import nearest
from alphabar.data.sniff import HEAD_BYTES
from alphabar.data.text import PARTS, reason

__all__ = ["exists", "file_head", "regular_file", "split_part"]


def split_part(path: str) -> tuple[str, str]:
    """(path, "train" or "test") from ``path`` or ``path#part``; a ``#`` in the name of an existing file is a name.

    Raises :class:`DataError` for another part.
    """
    if "#" not in path or exists(path):
        return path, PARTS[0]
    file, _, part = path.rpartition("#")
    if part not in PARTS:
        raise DataError(
            f"{printable(path)}: '{printable(part)}' is not one of the parts {', '.join(PARTS)}"
            f"{nearest(part, list(PARTS))}"
        )
    return file, part


def exists(path: str) -> bool:
    """Whether something is at ``path``; a path that cannot be is not there."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def regular_file(path: str) -> int:
    """The size in bytes of the file at ``path``. Raises :class:`DataError` if it is missing or not a regular file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: {reason(error)}; check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{printable(path)}: is a folder, FIFO or device; give a file")
    return status.st_size


def file_head(path: str) -> bytes:
    """The first 1024 bytes of a regular file. Raises :class:`DataError` if it cannot be read."""
    regular_file(path)
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{printable(path)}: {reason(error)}; check the path") from error
