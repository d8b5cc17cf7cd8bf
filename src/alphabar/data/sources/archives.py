"""Zip and tar files read in place: nothing is extracted, so nothing can be written anywhere (rule I4).

An archive that tries tricks (names that lead out of it, links, devices, encryption, the same name twice) is refused
as a whole. A member that unpacks to more than 200 times its size is a bad file. A tar with compression is unpacked
into a temporary file without a name, because a compressed stream cannot be read from the middle. Several tar files
are one set: the shards of WebDataset, whose samples are files of one name with different extensions.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from alphabar.base.errors import DataError, StorageError, printable
from alphabar.data.batch import Images
from alphabar.data.kept import kept_scan
from alphabar.data.reading import Reading
from alphabar.data.sources.paths import exists, file_head, regular_file
from alphabar.data.store import Tag
from alphabar.data.text import reason, spec_of, stem
from alphabar.data.walk import HIDDEN, Walk, is_junk

__all__ = ["Spool", "is_shards", "is_tar", "open_tar", "open_zip", "shards"]

MAX_MEMBERS = 2_000_000
MAX_RATIO = 200
MAX_TOTAL_BYTES = 2**40
SMALL_BYTES = 2**20  # below this, any ratio is harmless
CHUNK_BYTES = 2**22
MAX_TAG_BYTES = 2**16
PACKED: dict[bytes, Callable[[str], IO[bytes]]] = {
    b"\x1f\x8b": lambda path: cast(IO[bytes], gzip.GzipFile(path)),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


class Spool:
    """Pieces of one file, given or nameless, each to be opened as a file of its own by any number of threads."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.pieces: dict[str, tuple[int, int]] = {}

    def open(self, name: str) -> BinaryIO:
        """The piece called ``name``."""
        start, size = self.pieces[name]
        return cast(BinaryIO, io.BufferedReader(_Window(self.file.fileno(), start, size)))


class _Window(io.RawIOBase):
    """``size`` bytes of a file from ``start``, read without moving the file's own position."""

    def __init__(self, handle: int, start: int, size: int) -> None:
        self.handle, self.start, self.size, self.at = handle, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = os.pread(self.handle, min(len(buffer), max(0, self.size - self.at)), self.start + self.at)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def open_zip(path: str, reading: Reading | None = None) -> Images:
    """All images in the zip file at ``path``; folders in it are classes, unless a table in it says otherwise.

    Raises :class:`DataError` for a damaged or hostile archive, and where :func:`~alphabar.data.scan.scan` does.
    """
    regular_file(path)
    with _damage(path, "zip"):
        archive = zipfile.ZipFile(path)
    with archive:
        return kept_scan(_Zip(path, archive), reading or Reading())


class _Zip:
    def __init__(self, path: str, archive: zipfile.ZipFile) -> None:
        self.where, self.name, self.spec = printable(path), stem(path), spec_of("zip", path)
        self.archive = archive
        self.members: dict[str, zipfile.ZipInfo] = {}

    def listing(self) -> Walk:
        listed = _Members(self.where)
        for info in self.archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                listed.refuse(info.filename, "is encrypted; save the archive without a password")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not stat.S_ISREG(kind):
                listed.refuse(info.filename, "is a link or device; pack the files themselves")
            packed = max(info.compress_size, 1)
            listed.add(info.filename, info.file_size, info.file_size / packed, (info.CRC,))
        names = listed.names()
        self.members = {names[info.filename]: info for info in self.archive.infolist() if info.filename in names}
        return listed.walk(os.stat(cast(str, self.archive.filename)))

    def open(self, name: str) -> BinaryIO:
        try:
            return cast(BinaryIO, _Checked(self.archive.open(self.members[name])))
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise DataError(f"damaged in the archive ({reason(error)})") from error

    def tags(self, files: list[str]) -> dict[str, Tag]:
        return {}

    def class_names(self) -> tuple[str, ...]:
        return ()


class _Checked:
    """A member of a zip open for reading, whose damage is a :class:`DataError`."""

    def __init__(self, member: IO[bytes]) -> None:
        self.member = member
        self.seek, self.tell, self.close = member.seek, member.tell, member.close

    def read(self, size: int = -1) -> bytes:
        try:
            return self.member.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, lzma.LZMAError, OSError) as error:
            raise DataError(f"damaged in the archive ({reason(error)})") from error

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_tar(path: str) -> bool:
    """Whether the file at ``path`` is a tar, by its content. Raises :class:`DataError` if it cannot be read."""
    head = file_head(path)
    unpack = next((unpack for magic, unpack in PACKED.items() if head.startswith(magic)), None)
    if unpack is not None:
        try:
            with unpack(path) as stream:
                head = stream.read(1024)
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            return False
    return head[257:262] == b"ustar" or (len(head) >= 512 and _old_tar(head[:512]))


def _old_tar(header: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def is_shards(folder: str) -> bool:
    """Whether a folder holds tar files, and beside them nothing but tables and notes."""
    try:
        names = [name for name in os.listdir(folder) if not is_junk(name)]
    except OSError:
        return False
    tars = [name for name in names if name.endswith(".tar")]
    return bool(tars) and all(name.endswith((".tar", ".json", ".txt", ".md", ".csv")) for name in names)


def shards(path: str) -> list[str]:
    """The tar files that ``path`` means: itself, those of a folder, or those of a pattern such as ``x-{0..9}.tar``."""
    if os.path.isdir(path):
        return sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".tar"))
    if exists(path):
        return [path]
    found: list[str] = []
    for pattern in _braces(path):
        found += sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    return found


def _braces(pattern: str) -> Iterator[str]:
    """``a{3..5}b`` and ``a{x,y}b`` written out; numbers keep their leading zeros."""
    match = re.search(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    if match[3] is not None:
        inner = match[3].split(",")
    else:
        first, last, width = int(match[1]), int(match[2]), len(match[1])
        if last - first >= MAX_MEMBERS:
            raise DataError(f"{printable(pattern)}: names more than {MAX_MEMBERS:,} files")
        inner = [f"{number:0{width}}" for number in range(first, last + 1)]
    for text in inner:
        yield from _braces(pattern[: match.start()] + text + pattern[match.end() :])


def open_tar(path: str, reading: Reading | None = None) -> Images:
    """All images in the tar at ``path``, or in the tars of a folder or pattern, taken together.

    A sample's label is in the file of its name with the extension ``.cls`` (a number or a name) or ``.json`` (under
    ``label``, ``cls`` or ``class``); without such files, folders in the tars are classes. Raises :class:`DataError`
    for a damaged or hostile archive, and where :func:`~alphabar.data.scan.scan` does.
    """
    parts = shards(path)
    if not parts:
        raise DataError(f"{printable(path)}: no tar files; give a tar, a folder of them or a pattern")
    for part in parts:
        regular_file(part)
    store = _Tars(path, parts)
    try:
        return kept_scan(store, reading or Reading())
    finally:
        store.close()


class _Tars:
    def __init__(self, path: str, parts: list[str]) -> None:
        self.where, self.spec = printable(path), spec_of("tar", path)
        self.name = re.split(r"[{*?\[]", stem(path))[0].strip("-_") or "shards"
        self.parts = parts
        self.spools: list[Spool] = []
        self.found: dict[str, tuple[Spool, str]] = {}
        self.sides: dict[str, str] = {}
        self.listed: Walk | None = None

    def close(self) -> None:
        for spool in self.spools:
            spool.file.close()

    def listing(self) -> Walk:
        if self.listed is not None:
            return self.listed
        listed = _Members(self.where)
        stamps: list[os.stat_result] = []
        places: dict[str, tuple[Spool, str]] = {}
        for part in self.parts:
            with _damage(part, "tar"):
                stamps.append(os.stat(part))
                spool = Spool(_plain(part))
                self.spools.append(spool)
                prefix = "" if len(self.parts) == 1 else os.path.basename(part) + "/"
                for member in _members(spool.file, listed):
                    spool.pieces[member.name] = (member.start, member.size)
                    listed.add(member.name, member.size, 1.0, (member.start,), prefix)
                    places[prefix + member.name] = (spool, member.name)
        names = listed.names()
        self.found = {names[old]: place for old, place in places.items() if old in names}
        self.sides = {_key(new): new for new in self.found if new.endswith(".json")}
        self.sides |= {_key(new): new for new in self.found if new.endswith(".cls")}
        self.listed = listed.walk(*stamps)
        self.listed.used.update(self.sides.values())
        return self.listed

    def open(self, name: str) -> BinaryIO:
        spool, piece = self.found[name]
        return spool.open(piece)

    def tags(self, files: list[str]) -> dict[str, Tag]:
        tags = {}
        for file in files:
            side = self.sides.get(_key(file))
            text = "" if side is None else self._tag(side)
            if text:
                tags[file] = Tag(text, f"the .{side.rpartition('.')[2] if side else ''} files")
        return tags

    def _tag(self, side: str) -> str:
        with self.open(side) as file:
            data = file.read(MAX_TAG_BYTES).decode("utf-8", "replace").strip()
        if side.endswith(".cls"):
            return data
        try:
            table = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where}: {printable(side)} is no JSON ({printable(error)}); repair it") from None
        if not isinstance(table, dict):
            return ""
        label = next((table[key] for key in ("label", "cls", "class") if key in table), "")
        return str(label) if isinstance(label, int | str) and not isinstance(label, bool) else ""

    def class_names(self) -> tuple[str, ...]:
        return ()


def _key(name: str) -> str:
    """What the files of one sample share: the path up to the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


@dataclass(frozen=True)
class _Member:
    name: str
    start: int
    size: int


def _members(file: BinaryIO, listed: _Members) -> Iterator[_Member]:
    """The regular files of a plain tar. Raises :class:`DataError` for anything else in it, and for its early end."""
    size = os.fstat(file.fileno()).st_size
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                listed.refuse(info.name, "is a link, device or sparse file; pack the files themselves")
            if info.offset_data + info.size > size:
                missing = info.offset_data + info.size - size
                listed.refuse(info.name, f"is cut off, {missing:,} bytes are missing; copy the archive again")
            yield _Member(info.name, info.offset_data, info.size)
        if archive.offset + 512 > size:
            listed.notes.append("the tar has no end mark and may have lost files")


def _plain(path: str) -> BinaryIO:
    """A tar open for reading, unpacked into a nameless temporary file if it is compressed."""
    head = file_head(path)
    unpack = next((unpack for magic, unpack in PACKED.items() if head.startswith(magic)), None)
    if unpack is None:
        return open(path, "rb")
    most = min(MAX_TOTAL_BYTES, max(SMALL_BYTES, MAX_RATIO * os.path.getsize(path)))
    with ExitStack() as until_it_is_whole, unpack(path) as stream:
        plain = until_it_is_whole.enter_context(cast(BinaryIO, tempfile.TemporaryFile()))
        while piece := stream.read(CHUNK_BYTES):
            try:
                plain.write(piece)
            except OSError as error:
                folder = printable(tempfile.gettempdir())
                raise StorageError(f"{folder}: {reason(error)}; free some, or point TMPDIR to another disk") from error
            if plain.tell() > most:
                raise DataError(
                    f"{printable(path)}: unpacks to more than {MAX_RATIO} times its size; unpack it yourself if you "
                    "trust it, and give the folder"
                )
        plain.seek(0)
        until_it_is_whole.pop_all()
        return plain


class _Members:
    """The files of an archive, or of several shards, as they are listed, each checked."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.files: dict[str, tuple[int, ...]] = {}
        self.clean: dict[str, tuple[str, str]] = {}
        self.seen: set[str] = set()
        self.bad: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.junk = 0
        self.total = 0

    def refuse(self, name: str, why: str) -> None:
        raise DataError(f"{self.where}: {printable(name)} {why}")

    def add(self, name: str, size: int, ratio: float, stamp: tuple[int, ...], shard: str = "") -> None:
        """The file ``name`` of an archive; ``shard`` is what its path begins with where there are several."""
        clean = name.removeprefix("./")
        parts = clean.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
            self.refuse(shard + name, "is a name that leads out of the archive; pack it again with plain names")
        if shard + clean in self.seen:
            self.refuse(shard + name, "is in it twice; pack it again")
        self.seen.add(shard + clean)
        if any(map(is_junk, (shard + clean).split("/"))):
            self.junk += 1
            return
        self.total += size
        if self.total > MAX_TOTAL_BYTES:
            raise DataError(f"{self.where}: unpacks to more than {MAX_TOTAL_BYTES // 2**30} GiB; give smaller parts")
        if ratio > MAX_RATIO and size > SMALL_BYTES:
            self.bad.append((shard + name, f"unpacks to {ratio:,.0f} times its size, allowed are {MAX_RATIO}"))
            return
        self.files[shard + name] = (size, *stamp)
        self.clean[shard + name] = (shard, clean)
        if len(self.files) > MAX_MEMBERS:
            raise DataError(f"{self.where}: more than {MAX_MEMBERS:,} files; give smaller parts")

    def inner(self) -> dict[str, str]:
        """Name of a file → its path in its archive, below the one folder that holds everything, if there is one."""
        clean = {name: short for name, (_, short) in self.clean.items()}
        tops = {short.split("/")[0] if "/" in short else "" for short in clean.values()}
        if len(tops) == 1 and (top := tops.pop()):
            return {name: short[len(top) + 1 :] for name, short in clean.items()}
        return clean

    def names(self) -> dict[str, str]:
        """Name of a file → its path in the listing: the whole one in shards, else the inner one."""
        inner = self.inner()
        return {name: shard + clean if shard else inner[name] for name, (shard, clean) in self.clean.items()}

    def walk(self, *archives: os.stat_result) -> Walk:
        found = Walk(bad=sorted(self.bad))
        names, inner = self.names(), self.inner()
        found.stamps = {names[name]: stamp for name, stamp in self.files.items()}
        found.files = sorted(found.stamps, key=os.fsencode)
        found.folders = sorted({short.split("/")[0] for short in inner.values() if "/" in short}, key=os.fsencode)
        found.inner = {names[name]: short for name, short in inner.items()}
        found.stamps[""] = tuple(n for one in archives for n in (one.st_size, one.st_mtime_ns, one.st_ctime_ns))
        if self.junk:
            found.ignored[HIDDEN] = self.junk
        found.notes += self.notes
        return found


@contextmanager
def _damage(path: str, kind: str) -> Iterator[None]:
    """What the readers of archives raise for a damaged one, as one line."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise DataError(
            f"{printable(path)}: damaged or truncated {kind} archive ({printable(reason(error))}); copy it again"
        ) from error
    except OSError as error:
        raise DataError(f"{printable(path)}: {kind} archive: {printable(reason(error))}; check the file") from error
