"""A folder of image files; sub-folders are classes.

Two passes over the files: the headers say which size and how many channels the set has, then every image is decoded
into its place. So memory holds the result and a few images in flight, never the originals.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.decode import Header, Picture, decode, examine, quiet_decoders
from alphabar.data.fit import common_size, fit
from alphabar.data.memory import allocate
from alphabar.data.sniff import FORMATS, HEAD_BYTES, IMAGE_SUFFIXES, Content, sniff
from alphabar.data.sources.paths import count, exists, reason, spec_of, stem
from alphabar.data.walk import Walk, suffix, walk

__all__ = ["open_folder"]

MAX_FILE_BYTES = 2**30
FILES_PER_TASK = 64

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class _Candidate:
    path: str
    content: Content
    header: Header


@dataclass(frozen=True)
class _Bad:
    path: str
    reason: str


@dataclass(frozen=True)
class _Decoded:
    """What is kept of an image once its pixels are in place."""

    notes: tuple[str, ...]
    reduced: bool
    grey: bool
    digest: bytes
    constant: bool


def open_folder(path: str, size: int | None = None) -> Images:
    """All images below the folder ``path``, in the order of the bytes of their relative paths.

    ``size`` None keeps the common size, or chooses a square one for mixed sizes and notes it; otherwise every image
    is resized and cut to ``size`` x ``size``. Grey where all are grey, RGB otherwise. If every image lies in a
    sub-folder, each first-level sub-folder is a class. Raises one :class:`DataError` that names the first bad files.
    """
    root = os.path.abspath(path)
    name = stem(path)
    if not os.path.isdir(root):
        what = "is not a folder" if exists(root) else "no such folder"
        raise DataError(f"{printable(path)}: {what}; give the folder that holds the images")
    found = walk(root)
    bad = [_Bad(*item) for item in found.bad]
    notes: Counter[str] = Counter()
    with quiet_decoders():
        candidates, others = _candidates(root, found, bad)
        if not candidates and not bad:
            raise DataError(_nothing(root, found, others))
        height, width = _target(candidates, size, bad, notes) if candidates else (1, 1)
        channels = 1 if all(item.header.grey for item in candidates) else 3
        pixels = allocate((len(candidates), channels, height, width))
        decoded = _decode_all(root, candidates, pixels, bad)
    if bad:
        raise DataError(_refusal(root, bad))
    grey = sum(item.grey for item in decoded)
    if channels == 3 and grey == len(decoded):
        pixels = _first_channel(pixels)
    elif channels == 3:
        notes["in grey converted to RGB, as others are in colour"] = grey
    labels, class_names = _classes([item.path for item in candidates], notes)
    _add_notes(candidates, decoded, notes)
    lines = [f"{count(n, 'image')} {text}" for text, n in sorted(notes.items()) if n]
    lines += _ignored(found, others)
    if labels is not None and len(found.folders) > len(class_names):
        lines.append(f"{count(len(found.folders) - len(class_names), 'sub-folder')} without images: not a class")
    reduced = any(item.reduced for item in decoded)
    return Images(pixels, labels, class_names, name, spec_of("folder", root), tuple(lines), reduced=reduced)


def _first_channel(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    narrow = allocate((len(pixels), 1, *pixels.shape[2:]))
    narrow[:] = pixels[:, :1]
    return narrow


def _candidates(root: str, found: Walk, bad: list[_Bad]) -> tuple[list[_Candidate], list[str]]:
    """(images, other files); what claims to be an image and is none joins ``bad``."""
    candidates, others = [], []
    for path, outcome in zip(found.files, _in_threads(lambda file: _look(root, file), found.files), strict=True):
        if outcome is None:
            others.append(path)
        elif isinstance(outcome, _Bad):
            bad.append(outcome)
        else:
            candidates.append(outcome)
    return candidates, others


def _look(root: str, path: str) -> _Candidate | _Bad | None:
    """An image, a bad file, or None for something that neither is nor claims to be an image."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            content = sniff(file.read(HEAD_BYTES))
            if not content.format:
                claims = content.raster or suffix(path) in IMAGE_SUFFIXES
                return _Bad(path, content.words) if claims else None
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                return _Bad(path, f"a file of more than {MAX_FILE_BYTES // 2**20} MiB")
            file.seek(0)
            return _Candidate(path, content, examine(file, content))
    except DataError as error:
        return _Bad(path, str(error))
    except OSError as error:
        return _Bad(path, reason(error))


def _target(candidates: list[_Candidate], size: int | None, bad: list[_Bad], notes: Counter[str]) -> tuple[int, int]:
    """(H, W) of the set; images that are too small for it join ``bad`` and leave ``candidates``."""
    shapes = Counter((item.header.height, item.header.width) for item in candidates)
    if size is None and len(shapes) == 1:
        return next(iter(shapes))
    advice = ""
    if size is None:
        size = common_size({min(shape) for shape in shapes})
        advice = ", the least that is chosen for mixed sizes; a size may be given"
    note = f"of other sizes brought to {size}x{size} (shorter side resized, centre cut out)"
    notes[note] = len(candidates) - shapes[size, size]
    small = [item for item in candidates if min(item.header.height, item.header.width) < size]
    for item in small:
        shape = f"{item.header.height}x{item.header.width}"
        bad.append(_Bad(item.path, f"{shape} is smaller than {size}x{size}{advice}"))
    candidates[:] = [item for item in candidates if min(item.header.height, item.header.width) >= size]
    return size, size


def _decode_all(
    root: str, candidates: list[_Candidate], pixels: npt.NDArray[np.uint8], bad: list[_Bad]
) -> list[_Decoded]:
    def place(n: int) -> _Decoded | _Bad:
        item = candidates[n]
        try:
            with open(os.path.join(root, item.path), "rb") as file:
                picture = decode(file.read(MAX_FILE_BYTES), item.content)
            return _placed(picture, item, pixels[n])
        except DataError as error:
            return _Bad(item.path, str(error))
        except OSError as error:
            return _Bad(item.path, reason(error))

    decoded = []
    for outcome in _in_threads(place, list(range(len(candidates)))):
        if isinstance(outcome, _Bad):
            bad.append(outcome)
        else:
            decoded.append(outcome)
    return decoded


def _placed(picture: Picture, item: _Candidate, out: npt.NDArray[np.uint8]) -> _Decoded:
    if picture.pixels.shape[:2] != (item.header.height, item.header.width):
        raise DataError("its size is not that of its header, or the file changed while it was read")
    _, height, width = out.shape
    square = picture.pixels if picture.pixels.shape[:2] == (height, width) else fit(picture.pixels, height)
    grey = square.ndim == 2
    if len(out) == 1 and not grey:
        raise DataError("colour pixels under a grey header")
    out[:] = square if grey else square.transpose(2, 0, 1)
    digest = hashlib.blake2b(np.ascontiguousarray(out).data, digest_size=16).digest()
    constant = bool(out.min() == out.max()) and out[0].size > 1
    return _Decoded(picture.notes, picture.reduced, grey, digest, constant)


def _in_threads(function: Callable[[S], T], items: list[S]) -> Iterator[T]:
    """``map`` on one thread per processor, in order, a run of items at a time."""
    runs = [items[start : start + FILES_PER_TASK] for start in range(0, len(items), FILES_PER_TASK)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="alphabar-decode") as pool:
        try:
            for results in pool.map(lambda run: [function(item) for item in run], runs):
                yield from results
        finally:
            pool.shutdown(cancel_futures=True)


def _classes(paths: list[str], notes: Counter[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    tops = [path.split(os.sep)[0] for path in paths if os.sep in path]
    loose = len(paths) - len(tops)
    if loose:
        if tops:
            notes["directly in the folder, beside sub-folders: no classes, all images unlabelled"] = loose
        return None, ()
    used = sorted(set(tops), key=os.fsencode)
    numbers = {top: n for n, top in enumerate(used)}
    return np.array([numbers[top] for top in tops], dtype=np.int64), tuple(printable(top) for top in used)


def _add_notes(candidates: list[_Candidate], decoded: list[_Decoded], notes: Counter[str]) -> None:
    for item in decoded:
        notes.update(item.notes)
    notes["under the extension of another format, decoded by content"] = sum(
        IMAGE_SUFFIXES.get(suffix(item.path)) != item.content.format for item in candidates
    )
    notes["of one single value (constant)"] = sum(item.constant for item in decoded)
    notes["repeating another image exactly"] = len(decoded) - len({item.digest for item in decoded})


def _ignored(found: Walk, others: list[str]) -> list[str]:
    lines = [f"{count(n, 'entry', 'entries')} ignored: {why}" for why, n in sorted(found.ignored.items())]
    if others:
        lines.append(f"{count(len(others), 'other file')} ignored (such as {printable(others[0])})")
    return lines


def _nothing(root: str, found: Walk, others: list[str]) -> str:
    seen = "; ".join(_ignored(found, others)) or "there are no files"
    return (
        f"{printable(root)}: no images found (looked for {', '.join(FORMATS)}; {seen}); "
        "give the folder that holds the images"
    )


def _refusal(root: str, bad: list[_Bad]) -> str:
    bad.sort(key=lambda item: os.fsencode(item.path))
    named = ", ".join(f"{printable(item.path)} ({printable(item.reason)})" for item in bad[:3])
    more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
    return (
        f"{printable(root)}: {count(len(bad), 'file')} cannot be used: {named}{more}; "
        f"repair or remove {'it' if len(bad) == 1 else 'them'}"
    )
