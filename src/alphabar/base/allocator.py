"""What the C library does with memory that was freed: by default it gives much of it back between two steps."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MOST = 2**31 - 1
MOST_ON_OLD_VERSIONS = 32 * 2**20


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next request of this process; whether it will.

    A training step frees its activations and asks for as many again. Where the system takes the pages back in between,
    it fills each with zeros when it is touched again: 5 to 10 % of a step on a processor. The peak is the same, but
    stays until the process ends. Nothing is done where the C library is not glibc, or where the environment sets its
    malloc by MALLOC_* or GLIBC_TUNABLES.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  other libraries take mallopt and ignore it
    except (AttributeError, OSError, TypeError):  # musl and macOS; Windows
        return False
    kept = set_option(M_MMAP_THRESHOLD, MOST) or set_option(M_MMAP_THRESHOLD, MOST_ON_OLD_VERSIONS)
    return bool(set_option(M_TRIM_THRESHOLD, MOST)) and bool(kept)
