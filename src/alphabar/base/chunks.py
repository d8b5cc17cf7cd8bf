"""Work on many rows in pieces as large as memory allows: what does not fit is halved, and the rest follows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TypeVar

from alphabar.base.errors import OutOfMemory

__all__ = ["Chunks", "asked_for", "is_out_of_memory"]

T = TypeVar("T")
log = logging.getLogger("alphabar")

# torch raises its own class on accelerators; on a CPU its allocator, oneDNN and C++ say it in these words
_WORDS = re.compile(r"can't allocate memory|could not create a (primitive|memory)|bad_alloc|out of memory", re.I)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or torch says that memory is exhausted."""
    if isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def asked_for(error: BaseException) -> str:
    """``" (asked for 4.0 GB)"`` where the message of an allocator tells, else nothing."""
    found = re.search(r"allocate ([\d.]+) (bytes|[KMG]iB)", str(error))
    if found is None:
        return ""
    size = float(found[1]) * {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[found[2]]
    return f" (asked for {size / 1e9:.1f} GB)" if size >= 1e8 else f" (asked for {size / 1e6:.1f} MB)"


class Chunks:
    """Calls a function on ranges of rows that fit into memory; what did not fit once is not tried again.

    ``name`` says in the one warning what is made in smaller pieces; ``limit`` is the most rows to begin with. Raises
    :class:`OutOfMemory` where not even one row fits.
    """

    def __init__(self, name: str, limit: int | None = None) -> None:
        self.name = name
        self.limit = limit
        self.warned = False

    def __call__(self, call: Callable[[range], T], rows: range) -> list[T]:
        """What ``call`` makes of consecutive pieces of ``rows``, in order."""
        made: list[T] = []
        if self.limit is not None and self.limit < len(rows):
            self._warn("free memory is for %d of %d images at once", self.limit, len(rows))
        start = rows.start
        while start < rows.stop:
            piece = range(start, min(rows.stop, start + (self.limit or len(rows))))
            try:
                made.append(call(piece))
            except (RuntimeError, MemoryError, OutOfMemory) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(piece), error)
            else:
                start = piece.stop
        return made

    def _halve(self, size: int, error: BaseException) -> None:
        if size == 1:
            raise OutOfMemory(
                f"{self.name}: out of memory with one image{asked_for(error)}; use a smaller network or more memory"
            ) from error
        self._warn("out of memory with %d images at once; going on with fewer", size)
        self.limit = size // 2

    def _warn(self, text: str, *numbers: int) -> None:
        if not self.warned:
            log.warning("%s: " + text, self.name, *numbers)
        self.warned = True
