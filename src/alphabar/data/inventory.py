"""Which images a run was trained on, one line each, so that a later change can be named and not only noticed."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from alphabar.base.errors import printable
from alphabar.data.batch import Images

__all__ = ["difference", "inventory"]

SHOWN = 3


def inventory(images: Images) -> bytes:
    """A line ``digest<TAB>origin`` for each image, in order; the digest is of its pixels and label."""
    return "".join(f"{digest}\t{origin}\n" for digest, origin in _entries(images)).encode()


def _entries(images: Images) -> list[tuple[str, str]]:
    origins = images.which(np.arange(len(images)))
    return [(_digest(images, i), printable(origin)) for i, origin in enumerate(origins)]


def _digest(images: Images, index: int) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(images.pixels[index]).data, digest_size=8)
    if images.labels is not None:
        digest.update(int(images.labels[index]).to_bytes(8, "little"))
    return digest.hexdigest()


def difference(before: bytes, images: Images) -> str:
    """``2 added, 1 changed (first: a.png, b.png, c.png)``: how ``images`` differ from those of an inventory.

    An image counts as changed where one of the same origin was there; where the images are the same and only stand in
    another order, that is said. Empty if nothing differs.
    """
    old = [tuple(line.split("\t", 1)) for line in before.decode().splitlines() if "\t" in line]
    now = _entries(images)
    if old == now:
        return ""
    was, known = {origin: digest for digest, origin in old}, {origin for _, origin in now}
    # by content first: an image under another number is still there
    left = Counter(digest for digest, _ in old)
    left.subtract(digest for digest, _ in now)
    fresh = [origin for digest, origin in now if left[digest] < 0 and was.get(origin) != digest]
    changed = [origin for origin in fresh if origin in was]
    added = [origin for origin in fresh if origin not in was]
    removed = [origin for digest, origin in old if left[digest] > 0 and origin not in known]
    parts = [
        f"{len(names):,} {what}"
        for names, what in ((added, "added"), (removed, "removed"), (changed, "changed"))
        if names
    ]
    names = [*added, *removed, *changed][:SHOWN]
    if not parts:
        return "the same images under other names or in another order"
    return f"{', '.join(parts)} (first: {', '.join(names)})"
