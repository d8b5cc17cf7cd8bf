"""Sees every operation on the disk below a folder before it happens, so that a test can fail, kill or record there.

The names are the system's (fsync, replace, unlink, …), not the package's: an operation that does not go through
``base.storage`` is seen too. Bytes are seen before they are written (``put``) and when half of them are (``half``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alphabar.base import storage

__all__ = ["watch"]

NAMES = ("fsync", "mkdir", "rename", "replace", "rmdir", "truncate", "unlink")
Before = Callable[[str, str], None]


def place(path: Any, folder: int | None) -> str:
    """The absolute path that a system call means by a name, below an open folder, or an open file."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    name = os.fsdecode(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name) if folder is not None else os.path.abspath(name)


def watch(root: Path | str, before: Before) -> Callable[[], None]:
    """Call ``before(operation, path)`` ahead of each operation on ``root`` and below; returns what ends that."""
    top = f"{root}/"
    kept: list[tuple[Any, str, Any]] = []

    def replace(module: Any, name: str, by: Any) -> None:
        kept.append((module, name, getattr(module, name)))
        setattr(module, name, by)

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def operation(path: Any, *more: Any, **named: Any) -> Any:
            where = place(path, named.get("dir_fd"))
            if where == str(root) or where.startswith(top):
                before(name, where)
            return real(path, *more, **named)

        replace(os, name, operation)

    for name in NAMES:
        wrap(name)
    put, exchange = storage.put, storage.exchange

    def put_in_halves(file: Any, data: bytes) -> None:
        where = place(file.fileno(), None)
        if not where.startswith(top):
            return put(file, data)
        before("put", where)
        put(file, data[: len(data) // 2])
        before("half", where)
        put(file, data[len(data) // 2 :])

    def exchanged(one: Path, other: Path) -> None:
        before("exchange", str(one))
        exchange(one, other)

    replace(storage, "put", put_in_halves)
    replace(storage, "exchange", exchanged)

    def end() -> None:
        for module, name, real in kept:
            setattr(module, name, real)

    return end
