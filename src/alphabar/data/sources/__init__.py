"""Where images come from. One word opens any of them: ``digits``, ``kind:path``, or a path whose content decides."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from alphabar.base.errors import DataError, printable
from alphabar.base.registry import Registry, nearest
from alphabar.data.batch import Images
from alphabar.data.fit import FITS, fit_all
from alphabar.data.reading import Reading
from alphabar.data.sniff import sniff
from alphabar.data.sources.archives import is_shards, is_tar, open_tar, open_zip, shards
from alphabar.data.sources.arrays import is_npz, open_npy, open_npz
from alphabar.data.sources.cifar import is_cifar10, open_cifar10
from alphabar.data.sources.digits import open_digits
from alphabar.data.sources.folder import open_folder
from alphabar.data.sources.hub import is_tables, open_hub
from alphabar.data.sources.idx import is_idx, open_idx
from alphabar.data.sources.paths import exists, file_head
from alphabar.data.text import reason

__all__ = ["SOURCES", "Opener", "open_source"]

# path (with #part where the kind has parts; empty if none was given), how to read -> images; an opener may leave them
# at another size.
Opener = Callable[[str, Reading], Images]

SOURCES: Registry[Opener] = Registry(
    "sources",
    {
        "digits": open_digits,
        "folder": open_folder,
        "zip": open_zip,
        "tar": open_tar,
        "hub": open_hub,
        "npz": open_npz,
        "npy": open_npy,
        "idx": open_idx,
        "cifar10": open_cifar10,
    },
)
PATHLESS = frozenset({"digits"})


def open_source(spec: str, reading: Reading | int | None = None) -> Images:
    """All images of ``spec``: 'digits', 'kind:path' with a kind of :data:`SOURCES`, or a path of any of these kinds.

    ``#test`` after the path of an npz or cifar10 source is its test part. ``reading`` says how; a number N brings the
    images to N x N (shorter side resized, centre cut out), never enlarged. Raises :class:`DataError` for what is
    missing, damaged or of no known kind, :class:`ConfigError` for a setting that cannot be.
    """
    how = reading if isinstance(reading, Reading) else Reading(size=reading)
    kind, path = _kind_and_path(spec)
    return fit_all(SOURCES[kind](path, how), how.size, FITS[how.fit], how.background)


def _kind_and_path(spec: str) -> tuple[str, str]:
    kind, colon, path = spec.partition(":")
    if kind in SOURCES and (path or kind in PATHLESS):
        return kind, path
    if exists(spec):
        return _detect(spec), spec
    if kind in SOURCES:
        raise DataError(f"{printable(spec)}: the kind {kind} needs a path; write {kind}:PATH")
    bare = spec.rpartition("#")[0]
    if bare and exists(bare):
        return _detect(bare), spec
    if colon and re.fullmatch(r"\w+", kind):
        raise DataError(
            f"{printable(spec)}: {kind!r} is not one of the kinds {', '.join(SOURCES)}{nearest(kind, SOURCES)}, "
            "and there is no file of that name"
        )
    if re.search(r"[*?\[{]", spec) and shards(spec):
        return "tar", spec
    guess = "" if os.sep in spec else nearest(spec, SOURCES)
    raise DataError(
        f"'{printable(spec)}': no such file or folder{guess}; give a path, kind:path or digits "
        f"(kinds: {', '.join(SOURCES)})"
    )


def _detect(path: str) -> str:
    """The kind of what lies at ``path``, by its content."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise DataError(f"{printable(path)}: {reason(error)}; check the path") from error
    if stat.S_ISDIR(mode):
        return "cifar10" if is_cifar10(path) else "tar" if is_shards(path) else "hub" if is_tables(path) else "folder"
    head = file_head(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK"):
        return "npz" if is_npz(path) else "zip"
    if is_idx(path):
        return "idx"
    if is_tar(path):
        return "tar"
    if head.startswith((b"PAR1", b"ARROW1")) or path.endswith(".arrow"):
        return "hub"
    content = sniff(head)
    advice = (
        "give the folder that holds it"
        if content.raster
        else "give a folder or archive of images, npz, npy, IDX or CIFAR-10"
    )
    raise DataError(f"{printable(path)}: {content.words}; {advice}")
