"""How sources speak: counted nouns, the SOURCE text of a path, one line per failure of the system."""

from __future__ import annotations

import os

from alphabar.base.errors import printable

__all__ = ["PARTS", "count", "reason", "spec_of", "stem"]

PARTS = ("train", "test")


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``3 images``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def stem(path: str) -> str:
    """The last component of ``path`` without extensions, printable: ``/data/mnist.npz`` is ``mnist``."""
    base = os.path.basename(os.path.abspath(path))
    return printable(base.split(".")[0] or base or "images")


def spec_of(kind: str, path: str, part: str = "train") -> str:
    """The SOURCE text that opens ``path`` again from any working directory."""
    return f"{kind}:{os.path.abspath(path)}" + ("" if part == PARTS[0] else f"#{part}")


def reason(error: Exception) -> str:
    """What the system says about a failed file operation, in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split()) or "unreadable"
