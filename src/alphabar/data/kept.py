"""Decoded images kept between commands, so that a second start of training reads them instead of decoding them again.

An entry is a folder in the user's cache, named by a hash of all that decides its content: the files with their sizes
and times, the settings of reading, the versions of the decoders. It appears by one rename and is verified before it
is used. All entries together stay below 10 GiB, the one unused for longest goes first. Deleting any of them at any
time is safe: who has one open keeps it until the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import features

from alphabar.base import storage
from alphabar.base.cache import cache_folder
from alphabar.base.errors import StorageError
from alphabar.base.pixels import Units
from alphabar.data.batch import Images
from alphabar.data.memory import rows_per_chunk
from alphabar.data.reading import Reading
from alphabar.data.scan import scan
from alphabar.data.store import Store
from alphabar.data.survey import Bad, Survey
from alphabar.data.walk import Walk

__all__ = ["MOST_BYTES", "kept_scan"]

VERSION = 2
MOST_BYTES = 10 * 2**30
DAY = 24 * 3600
PIXELS, ABOUT = "pixels.bin", "about"


def kept_scan(store: Store, reading: Reading) -> Images:
    """:func:`~alphabar.data.scan.scan`, or what it gave the last time for the same files and settings."""
    found = store.listing()
    entry = cache_folder() / "decoded" / _key(store, found, reading)
    if not reading.again:
        images = _read(entry, store)
        if images is not None:
            return images
    images = scan(store, found, reading)
    try:
        _write(entry, images)
    except StorageError as error:
        return dataclasses.replace(
            images, notes=(*images.notes, f"the decoded images are not kept for the next start ({error})")
        )
    if isinstance(images.pixels, np.memmap):  # the temporary file is as large as the kept one
        return _read(entry, store) or images
    return images


def _key(store: Store, found: Walk, reading: Reading) -> str:
    facts = {
        "version": VERSION,
        "decoders": [PIL.__version__, *(str(features.version(name)) for name in ("jpg", "zlib", "libtiff", "webp"))],
        "source": store.spec,
        "reading": [reading.size, reading.fit, reading.pages, reading.value_range, reading.background],
        "files": sorted(found.stamps.items()),
        "bad": found.bad,
        "ignored": sorted(found.ignored.items()),
        "folders": found.folders,
    }
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=20).hexdigest()


def _read(entry: Path, store: Store) -> Images | None:
    """The images in an entry; None if there is none, or its bytes are not those that were written."""
    try:
        stored = (entry / ABOUT).read_bytes()
        if hashlib.sha256(stored[32:]).digest() != stored[:32]:
            return None
        about = json.loads(stored[32:])
        shape = tuple(about["shape"])
        if (entry / PIXELS).stat().st_size != math.prod(shape):
            return None
        pixels = np.memmap(entry / PIXELS, np.uint8, mode="r", shape=shape)
        if _digest(pixels) != about["sha256"]:
            return None
        with contextlib.suppress(OSError):  # somebody else's entry, or one that was just evicted
            os.utime(entry / ABOUT)
    except (OSError, ValueError):
        return None
    return Images(
        pixels,
        None if about["labels"] is None else np.array(about["labels"], dtype=np.int64),
        tuple(about["class_names"]),
        store.name,
        store.spec,
        tuple(about["notes"]),
        about["reduced"],
        units=None if about["units"] is None else Units(**about["units"]),
        survey=None if about["survey"] is None else _survey(about["survey"]),
    )


def _table(survey: Survey) -> dict[str, Any]:
    return {**vars(survey), "bad": [vars(bad) for bad in survey.bad]}


def _survey(table: dict[str, Any]) -> Survey:
    return Survey(
        files=tuple(table["files"]),
        bad=tuple(Bad(**bad) for bad in table["bad"]),
        constant=tuple(table["constant"]),
        values=None if table["values"] is None else tuple(table["values"]),
        formats=Counter(table["formats"]),
        modes=Counter(table["modes"]),
        sizes=Counter(table["sizes"]),
        classes=Counter(table["classes"]),
        repeats=tuple((a, b) for a, b in table["repeats"]),
        off_size=tuple((a, b) for a, b in table["off_size"]),
    )


def _digest(pixels: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    rows = rows_per_chunk(pixels.shape)
    for start in range(0, len(pixels), rows):
        digest.update(np.ascontiguousarray(pixels[start : start + rows]).data)
    return digest.hexdigest()


def _write(entry: Path, images: Images) -> None:
    """Keep ``images`` at ``entry``. Raises :class:`StorageError` if the disk refuses or has too little room."""
    _make_room(entry.parent, images.pixels.nbytes)
    about = {
        "shape": images.pixels.shape,
        "sha256": _digest(images.pixels),
        "labels": None if images.labels is None else images.labels.tolist(),
        "class_names": images.class_names,
        "notes": images.notes,
        "reduced": images.reduced,
        "units": None if images.units is None else dataclasses.asdict(images.units),
        "survey": None if images.survey is None else _table(images.survey),
    }
    text = json.dumps(about).encode()
    with storage.commit_directory(entry) as folder:
        with (folder / PIXELS).open("wb") as file:
            rows = rows_per_chunk(images.pixels.shape)
            for start in range(0, len(images), rows):
                file.write(np.ascontiguousarray(images.pixels[start : start + rows]).data)
        (folder / ABOUT).write_bytes(hashlib.sha256(text).digest() + text)


def _make_room(folder: Path, size: int) -> None:
    """Evict entries, the one unused for longest first, until ``size`` bytes more keep within the bound."""
    if size > MOST_BYTES:
        raise StorageError(f"{size / 2**30:.0f} GiB are more than the {MOST_BYTES / 2**30:.0f} GiB that are kept")
    with storage.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        ages = []
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                if entry.name.startswith(storage.TEMPORARY):  # of a process that was killed, unless it is young
                    if time.time() - entry.stat().st_mtime > DAY:
                        storage.remove(entry)
                else:
                    ages.append(((entry / ABOUT).stat().st_mtime, (entry / PIXELS).stat().st_size, entry))
        total = size + sum(bytes_ for _, bytes_, _ in ages)
        for _, bytes_, entry in sorted(ages):
            if total <= MOST_BYTES:
                break
            storage.remove(entry)
            total -= bytes_
        if 2 * size > shutil.disk_usage(folder).free:
            raise StorageError("the disk is nearly full")
