"""A simulated power cut: from a record of every operation, every state that the disk may legally be in afterwards.

What POSIX promises is only this: the bytes of a file survive if they were there when it was synced; a name (made, gone,
replaced by a rename) survives if its directory was synced since. Anything else may be there or not, in any combination:

* a name whose directory was not synced: each such change is lost or not, independently, so in effect also reordered;
* bytes that were not synced: lost, kept, kept in half, or there in length but zero.

The states are taken before every operation and after the last. Where more than seven changes of names are open at once
(the package never gets there), prefixes, single losses, single survivors and random choices stand for all subsets.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.base.storage import TEMPORARY

__all__ = ["Recorder", "State", "points", "states"]

EXHAUSTIVE = 7
Entries = dict[str, dict[str, str]]  # directory → name → inode
Delta = tuple[str, dict[str, str | None]]  # directory, name → inode or None where it is gone


class Recorder:
    """Writes a snapshot of everything below ``root`` before each operation, each content once."""

    def __init__(self, root: Path, into: Path) -> None:
        self.root, self.into = root, into
        (into / "blobs").mkdir(parents=True)
        self.events: list[dict[str, Any]] = []
        self.pins: dict[str, int] = {}

    def before(self, name: str, path: str) -> None:
        entries: Entries = {}
        files: dict[str, str] = {}
        top = self._walk(self.root, entries, files)
        inode = self.pin(Path(path)) if name == "fsync" else None
        self.events.append(
            {"name": name, "path": path, "inode": inode, "root": top, "entries": entries, "files": files}
        )

    def pin(self, path: Path) -> str:
        """The inode of a path, kept open so that its number is not given to another."""
        number = str(path.stat().st_ino)
        if number not in self.pins:
            self.pins[number] = os.open(path, os.O_RDONLY)
        return number

    def _walk(self, path: Path, entries: Entries, files: dict[str, str]) -> str:
        inode = self.pin(path)
        if path.is_dir():
            entries[inode] = {child.name: self._walk(child, entries, files) for child in sorted(path.iterdir())}
        else:
            data = path.read_bytes()
            files[inode] = digest = hashlib.sha256(data).hexdigest()
            blob = self.into / "blobs" / digest
            if not blob.exists():
                blob.write_bytes(data)
        return inode

    def close(self) -> None:
        self.before("end", "")
        (self.into / "events.json").write_text(json.dumps(self.events))


@dataclass
class State:
    """What is on the disk after a power cut before operation ``point``; ``saved`` is the last step whose save returned.

    ``tree`` maps each path below the root to its bytes, or to None for a directory.
    """

    point: int
    operation: str
    saved: int
    tree: dict[str, bytes | None]

    def write(self, root: Path) -> None:
        """Make it under ``root``."""
        for path, data in self.tree.items():
            target = root / path
            if data is None:
                target.mkdir(parents=True)
            else:
                target.write_bytes(data)


@dataclass
class _Disk:
    """What is durable, and what is not yet."""

    root: str
    entries: Entries
    files: dict[str, str]
    pending: list[Delta] = field(default_factory=list)

    def note(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Changes of names between two snapshots."""
        for folder, names in after["entries"].items():
            old = before["entries"].get(folder, {})
            changed = {n: names.get(n) for n in {*old, *names} if old.get(n) != names.get(n)}
            if changed:
                self.pending.append((folder, changed))

    def sync(self, event: dict[str, Any]) -> None:
        inode = event["inode"]
        if inode in event["files"]:
            self.files[inode] = event["files"][inode]
            return
        self.entries[inode] = _applied(self.entries, [d for d in self.pending if d[0] == inode]).get(inode, {})
        self.pending = [d for d in self.pending if d[0] != inode]


def _applied(entries: Entries, deltas: list[Delta]) -> Entries:
    result = {folder: dict(names) for folder, names in entries.items()}
    for folder, changes in deltas:
        names = result.setdefault(folder, {})
        for name, inode in changes.items():
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
    return result


def _reachable(root: str, entries: Entries) -> set[str]:
    """Every inode with a path that is not temporary."""
    found, left = set(), [root]
    while left:
        inode = left.pop()
        found.add(inode)
        left += [i for name, i in entries.get(inode, {}).items() if not name.startswith(TEMPORARY)]
    return found


def _subsets(deltas: list[Delta]) -> Iterator[list[Delta]]:
    n = len(deltas)
    if n <= EXHAUSTIVE:
        for keep in itertools.product((False, True), repeat=n):
            yield list(itertools.compress(deltas, keep))
        return
    rng = random.Random(n)
    yield from (deltas[:k] for k in range(n + 1))
    yield from (deltas[:k] + deltas[k + 1 :] for k in range(n))
    yield from ([delta] for delta in deltas)
    yield from (list(itertools.compress(deltas, rng.choices((False, True), k=n))) for _ in range(64))


class _Blobs(dict[str, bytes]):
    """Contents by their digest, so that states are compared and kept as digests."""

    def add(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self[digest] = data
        return digest


@functools.lru_cache(maxsize=256)
def _variants(old: bytes, new: bytes) -> dict[str, bytes]:
    """What may be in a file of which ``old`` is durable and ``new`` was written."""
    half = (len(old) + len(new)) // 2
    return {"lost": old, "kept": new, "half": new[:half], "zero": old[: len(new)] + bytes(max(0, len(new) - len(old)))}


def _choices(open_files: dict[str, dict[str, str]]) -> Iterator[dict[str, str]]:
    """All files in the same way, and each one lost, zero or torn alone."""
    for how in ("lost", "kept", "half", "zero"):
        yield {inode: variants[how] for inode, variants in open_files.items()}
    if len(open_files) > 1:
        for inode in open_files:
            for how in ("lost", "half", "zero"):
                yield {i: v[how if i == inode else "kept"] for i, v in open_files.items()}


def points(record: Path) -> int:
    """How many operations were recorded."""
    return len(json.loads((record / "events.json").read_text()))


def states(record: Path) -> Iterator[State]:
    """Every different state after a power cut, leaving aside what is under temporary names."""
    events = json.loads((record / "events.json").read_text())
    blobs = _Blobs({path.name: path.read_bytes() for path in (record / "blobs").iterdir()})
    empty = blobs.add(b"")
    first = events[0]
    disk = _Disk(first["root"], first["entries"], dict(first["files"]))
    seen: set[Any] = set()
    saved, before = 0, first
    for number, event in enumerate(events):
        disk.note(before, event)
        if event["name"] == "saved":
            saved = int(event["path"])
        for tree in _trees(disk, event, blobs, empty):
            key = (saved, frozenset((path, digest) for path, digest in tree.items() if TEMPORARY not in path))
            if key not in seen:
                seen.add(key)
                made = {path: None if digest is None else blobs[digest] for path, digest in tree.items()}
                yield State(number, f"{event['name']} {Path(event['path']).name}", saved, made)
        if event["name"] == "fsync":
            disk.sync(event)
        before = event


def _trees(disk: _Disk, event: dict[str, Any], blobs: _Blobs, empty: str) -> Iterator[dict[str, str | None]]:
    """Every tree of digests that may be found after a cut before ``event``."""
    near = _reachable(disk.root, disk.entries) | _reachable(disk.root, event["entries"])
    relevant = [delta for delta in disk.pending if delta[0] in near]
    rest = [delta for delta in disk.pending if delta[0] not in near]
    contents = {**disk.files, **event["files"]}
    open_files = {}
    for inode, digest in event["files"].items():
        durable = disk.files.get(inode, empty)
        if inode in near and durable != digest:
            variants = _variants(blobs[durable], blobs[digest])
            open_files[inode] = {how: blobs.add(data) for how, data in variants.items()}
    choices = list(_choices(open_files))
    for kept in _subsets(relevant):
        entries = _applied(disk.entries, kept + rest)
        for choice in choices:
            yield _tree(disk.root, entries, {**contents, **choice})


def _tree(inode: str, entries: Entries, contents: dict[str, str], at: str = "") -> dict[str, str | None]:
    """Paths below an inode, parents first."""
    tree: dict[str, str | None] = {}
    for name, child in entries.get(inode, {}).items():
        path = f"{at}{name}"
        tree[path] = contents.get(child)
        if child not in contents:
            tree.update(_tree(child, entries, contents, f"{path}/"))
    return tree
