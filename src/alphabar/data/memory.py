"""Room for the pixels of a whole data set: ordinary memory, or a temporary file that the system pages in and out.

The file has no name, so it vanishes with the process however that ends. Its blocks are reserved at once: a disk
that is too full is an error here, not a bus error in the middle of training.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import StorageError, printable

__all__ = ["IN_MEMORY_BYTES", "allocate", "rows_per_chunk"]

IN_MEMORY_BYTES = 2**30
CHUNK_BYTES = 2**26


def allocate(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An uninitialised, writable uint8 array of ``shape``; a memory-mapped temporary file above 1 GiB.

    Raises :class:`StorageError` if the temporary folder has not enough room.
    """
    size = math.prod(shape)
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    folder = tempfile.gettempdir()
    refusal = StorageError(
        f"{printable(folder)}: the images need {size / 2**30:.1f} GiB there, "
        f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB are free; free some or point TMPDIR to another disk"
    )
    if size > shutil.disk_usage(folder).free:
        raise refusal
    with tempfile.TemporaryFile(dir=folder) as file:
        if sys.platform == "linux":
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise refusal from error
        return np.memmap(file, np.uint8, mode="w+", shape=shape)


def rows_per_chunk(shape: tuple[int, ...]) -> int:
    """How many rows of an array of ``shape`` make about 64 MiB; at least one."""
    return max(1, CHUNK_BYTES // max(1, math.prod(shape[1:])))
