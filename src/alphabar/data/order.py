"""Random orders that depend on their key alone, not on the version of numpy.

``numpy.random.Generator`` may change its streams between versions (NEP 19); the raw output of a bit generator may
not. A permutation is therefore the stable argsort of raw 64-bit numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["coin", "dice", "key_of", "permutation"]


def key_of(*parts: int | str) -> int:
    """A 64-bit number made of ``parts`` by BLAKE2b; any integers and strings, in order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permutation(n: int, *key: int | str) -> npt.NDArray[np.int64]:
    """A random order of 0..n-1, int64 [n], a pure function of ``n`` and ``key``."""
    raw = np.random.PCG64(key_of(*key, n)).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)


def coin(positions: npt.NDArray[np.int64], *key: int | str) -> npt.NDArray[np.bool_]:
    """A fair coin per position, bool of the same shape: the top bit of SplitMix64 at ``key`` + position."""
    return np.asarray(_mixed(positions, *key) >> np.uint64(63), dtype=np.bool_)


def dice(positions: npt.NDArray[np.int64], sides: int, *key: int | str) -> npt.NDArray[np.int64]:
    """A number from 0 to ``sides`` - 1 per position, int64 of the same shape, from the top 32 bits of SplitMix64."""
    top = _mixed(positions, *key) >> np.uint64(32)
    return np.asarray((top * np.uint64(sides)) >> np.uint64(32), dtype=np.int64)


def _mixed(positions: npt.NDArray[np.int64], *key: int | str) -> npt.NDArray[np.uint64]:
    start = np.uint64(key_of(*key))
    z = start + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
