"""Which files a folder of images holds, in a stable order and without traps (rule I3).

Regular files only: a FIFO would hang its reader for ever. Links are followed only inside the folder, and every file
counts once however many names lead to it. The order is that of the bytes of the relative path, so it depends neither
on the file system nor on the locale.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field

from alphabar.base.errors import DataError, printable
from alphabar.data.sniff import IMAGE_SUFFIXES

__all__ = ["HIDDEN", "MAX_ENTRIES", "SPECIAL", "Walk", "is_junk", "suffix", "walk"]

MAX_DEPTH = 32
MAX_ENTRIES = 10_000_000
JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})

HIDDEN = "hidden"
SPECIAL = "FIFO, socket or device"
REPEATED = "another name of a file or folder already taken"
DEAD = "broken link or link out of the folder"


@dataclass
class Walk:
    """Files as paths relative to the root; ``folders`` the first-level ones; ``bad`` (path, reason); what was left.

    ``inner`` has the path of a file inside the archive or table that it lies in, which is no folder; ``folders`` are
    then those at the top of that. ``stamps`` holds for every file what changes when its bytes do: its size and times,
    or a checksum. ``used`` names files that are no images and yet not left out, such as tables of labels.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    inner: dict[str, str] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    _links: list[str] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _entries: int = 0


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or the litter of a system, and not looked at."""
    return name.startswith(".") or name.lower() in JUNK


def suffix(path: str) -> str:
    """The extension of ``path`` in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def walk(root: str) -> Walk:
    """Everything below ``root``, sorted. Raises :class:`DataError` if it cannot be read, is too deep or too large."""
    found = Walk()
    top = os.path.realpath(root)
    _scan(top, "", found)
    # Links come last, so that a file is known by its own name and not by that of a link to it.
    while found._links:
        links, found._links = sorted(found._links, key=os.fsencode), []
        for link in links:
            _follow(top, link, found)
    found.files.sort(key=os.fsencode)
    found.folders.sort(key=os.fsencode)
    found.bad.sort(key=lambda item: os.fsencode(item[0]))
    return found


def _scan(top: str, start: str, found: Walk) -> None:
    pending = [start]
    while pending:
        folder = pending.pop()
        if folder.count(os.sep) + bool(folder) > MAX_DEPTH:
            raise DataError(f"{printable(folder)}: folders more than {MAX_DEPTH} deep are not searched; move them up")
        try:
            if not _first_visit(os.stat(os.path.join(top, folder)), found):
                continue
            with os.scandir(os.path.join(top, folder)) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if not folder:
                raise DataError(f"{printable(top)}: {error.strerror}; give a folder that can be read") from error
            found.bad.append((folder, error.strerror or "cannot be read"))
            continue
        found._entries += len(entries)
        if found._entries > MAX_ENTRIES:
            raise DataError(f"{printable(top)}: more than {MAX_ENTRIES} files; give a smaller folder")
        pending.extend(_sort_out(folder, entries, found))


def _sort_out(folder: str, entries: list[os.DirEntry[str]], found: Walk) -> list[str]:
    folders = []
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if is_junk(entry.name):
            found.ignored[HIDDEN] += 1
        elif entry.is_symlink():
            found._links.append(path)
        elif entry.is_dir(follow_symlinks=False):
            folders.append(path)
            if not folder:
                found.folders.append(path)
        else:
            try:
                _add_file(path, entry.stat(follow_symlinks=False), found)
            except OSError as error:
                found.bad.append((path, error.strerror or "cannot be read"))
    return folders


def _follow(top: str, link: str, found: Walk) -> None:
    full = os.path.join(top, link)
    try:
        target = os.path.realpath(full, strict=True)
        status = os.stat(target)
    except OSError:
        _refuse_link(link, "broken link", suffix(link) in IMAGE_SUFFIXES, found)
        return
    if os.path.commonpath([top, target]) != top:
        folder_or_image = stat.S_ISDIR(status.st_mode) or suffix(link) in IMAGE_SUFFIXES
        _refuse_link(link, "link that leads out of the folder", folder_or_image, found)
    elif not stat.S_ISDIR(status.st_mode):
        _add_file(link, status, found)
    elif (status.st_dev, status.st_ino) in found._seen:
        found.ignored[REPEATED] += 1
    else:
        if os.sep not in link:
            found.folders.append(link)
        _scan(top, link, found)


def _refuse_link(link: str, reason: str, matters: bool, found: Walk) -> None:
    if matters:
        found.bad.append((link, reason))
    else:
        found.ignored[DEAD] += 1


def _add_file(path: str, status: os.stat_result, found: Walk) -> None:
    if not stat.S_ISREG(status.st_mode):
        found.ignored[SPECIAL] += 1
    elif _first_visit(status, found):
        found.files.append(path)
        found.stamps[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    else:
        found.ignored[REPEATED] += 1


def _first_visit(status: os.stat_result, found: Walk) -> bool:
    key = (status.st_dev, status.st_ino)
    if key in found._seen:
        return False
    found._seen.add(key)
    return True
