"""A log of lines that agrees with the checkpoints beside it, whatever the disk does.

Lines that the disk refuses wait in memory and go in front of the next one, so the file never lacks a line or holds half
of one. It is not forced to the disk at every line: whoever commits a checkpoint calls :meth:`Journal.sync` first and
keeps :attr:`Journal.lines`; after a crash the log is cut back to as many.
"""

from __future__ import annotations

from pathlib import Path

from alphabar.base import storage

__all__ = ["Journal"]


class Journal:
    """The log at ``path``, cut back to its first ``keep`` whole lines. No file is an empty log.

    Attributes:
        lines: how many lines were added and kept, also those that wait for the disk.

    Raises:
        StorageError: if it cannot be cut back.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        with storage.storage_errors(path):
            data = path.read_bytes() if path.exists() else b""
            whole = data.split(b"\n")[:-1][:keep]
            self._end = sum(len(line) + 1 for line in whole)
            storage.cut(path, self._end)
        self.lines = len(whole)
        self._waiting: list[str] = []
        self._named = False

    def add(self, line: str) -> None:
        """Add a line, which must hold no newline.

        Raises:
            StorageError: if the disk refuses; the line then waits for the next call.
        """
        self.lines += 1
        self._waiting.append(f"{line}\n")
        self._write()

    def sync(self) -> None:
        """Force every line to the disk, and the first time the name of the file.

        Raises:
            StorageError: if the disk refuses.
        """
        self._write()
        if self._end:
            with storage.storage_errors(self.path):
                storage.sync_file(self.path)
                if not self._named:
                    storage.sync_directory(self.path.parent)
                    self._named = True

    def _write(self) -> None:
        if self._waiting:
            self._end = storage.write_at(self.path, self._end, "".join(self._waiting).encode())
            self._waiting.clear()
