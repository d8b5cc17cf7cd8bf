"""Which class an image is of: from a table beside the images, from the store itself, or from its folder.

A table is ``labels.csv`` or ``metadata.csv`` at the top: a header, a column of files (paths from the top) and a column
of labels. Classes that are all numbers keep them where 0 to K - 1 all occur, else are numbered in their order; others
are numbered in the order of the bytes of their names.
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.data.store import Store, Tag
from alphabar.data.survey import Bad
from alphabar.data.text import count
from alphabar.data.walk import Walk

__all__ = ["MAX_CLASSES", "Labels", "classes_of", "read_labels"]

MAX_CLASSES = 100_000
MAX_TABLE_BYTES = 2**30
TABLES = ("labels.csv", "metadata.csv")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class", "category", "target", "y")
NUMBER = re.compile(r"\d{1,6}")
NAMED = 3


def classes_of(
    numbers: npt.NDArray[np.int64], *others: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """Labels int64 [N] in 0..K-1 for ``numbers`` [N] from 0 up, the names of the K classes, and a note if they differ.

    Classes are the numbers that occur, here or in ``others``, the further parts of the same set: a network would be
    asked for any other class without having seen it.
    """
    found = np.unique(np.concatenate([numbers, *others]))
    names, last = tuple(map(str, found.tolist())), len(found) - 1
    if found[last] == last:
        return numbers, names, ()
    missing = int(np.argmin(found == np.arange(len(found))))
    note = (
        f"no image has the label {missing}: only labels that occur are classes, numbered from 0 "
        f"(label {found[last]} is class {last})"
    )
    return np.searchsorted(found, numbers), names, (note,)


@dataclass
class Labels:
    """The labels of a set: ``tags`` by file, or None where folders decide, by the path in ``inner`` if it is there."""

    tags: dict[str, Tag] | None = None
    known: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    inner: dict[str, str] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def covers(self, path: str) -> bool:
        """Whether the image can be used: where there are labels, it needs one."""
        return self.tags is None or path in self.tags

    def of(self, paths: list[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
        """Labels int64 [N] of the images and the names of the classes; None without labels."""
        if self.tags is not None:
            return self._numbered([self.tags[path].text for path in paths])
        return self._of_folders(paths)

    def _numbered(self, texts: list[str]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
        if all(map(NUMBER.fullmatch, texts)):
            numbers = np.array([int(text) for text in texts], dtype=np.int64)
            top = int(numbers.max()) + 1
            if top > MAX_CLASSES:
                raise DataError(f"labels: class {top - 1:,}; number the classes from 0, below {MAX_CLASSES:,}")
            if len(self.known) >= top:
                return numbers, self.known
            numbers, class_names, notes = classes_of(numbers)
            self.notes += notes
            return numbers, class_names
        names = sorted(set(texts), key=os.fsencode)
        number = {name: n for n, name in enumerate(names)}
        return np.array([number[text] for text in texts], dtype=np.int64), tuple(map(printable, names))

    def _of_folders(self, paths: list[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
        paths = [self.inner.get(path, path) for path in paths]
        tops = [path.split("/")[0] for path in paths if "/" in path]
        loose = len(paths) - len(tops)
        if loose:
            if tops:
                self.notes.append(
                    f"{count(loose, 'image')} directly in the folder, beside sub-folders: no classes, "
                    "all images unlabelled"
                )
            return None, ()
        used = sorted(set(tops), key=os.fsencode)
        empty = len(set(self.folders) - set(used))
        if empty:
            self.notes.append(f"{count(empty, 'sub-folder')} without images: not a class")
        numbers = {top: n for n, top in enumerate(used)}
        return np.array([numbers[top] for top in tops], dtype=np.int64), tuple(printable(top) for top in used)


def read_labels(store: Store, found: Walk, images: list[str]) -> Labels:
    """The labels of ``images``; those that lack one where others have one are bad.

    Raises :class:`DataError` for a table with wrong rows (with their lines), or without the columns it needs.
    """
    for table in TABLES:
        if table in found.files:
            tags = _table(store, table)
            if tags is not None:
                found.used.add(table)
                return _checked(tags, images, table)
    tags = store.tags(images)
    if tags:
        labels = _checked(tags, images, next(iter(tags.values())).origin)
        labels.known = store.class_names()
        return labels
    return Labels(folders=tuple(found.folders), inner=found.inner)


def _checked(tags: dict[str, Tag], images: list[str], origin: str) -> Labels:
    missing = [Bad(path, f"has no label in {origin}") for path in images if path not in tags]
    labels = Labels(tags, bad=missing, notes=[f"labels from {printable(origin)}"])
    without = sorted(set(tags) - set(images))
    if without:
        first = tags[without[0]].origin
        labels.notes.append(
            f"{count(len(without), 'label')} without an image (such as {printable(without[0])}, {printable(first)})"
        )
    return labels


def _table(store: Store, name: str) -> dict[str, Tag] | None:
    """File → label of a table; None for a ``metadata.csv`` that has no column of labels."""
    where = f"{store.where}/{name}"
    with store.open(name) as file:
        data = file.read(MAX_TABLE_BYTES + 1)
    if len(data) > MAX_TABLE_BYTES:
        raise DataError(f"{where}: more than {MAX_TABLE_BYTES // 2**20} MiB; split the data")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [cell.strip().lower() for cell in next(rows, [])]
        columns = [next((c for c in names if c in head), None) for names in (FILE_COLUMNS, LABEL_COLUMNS)]
        if columns[1] is None and name == TABLES[1]:
            return None
        if None in columns:
            raise DataError(
                f"{where}: its columns are {', '.join(map(printable, head[:8])) or 'missing'}; needed are one of "
                f"{', '.join(FILE_COLUMNS)} and one of {', '.join(LABEL_COLUMNS)}"
            )
        places = [head.index(str(column)) for column in columns]
        return _rows(rows, places, len(head), name, where)
    except csv.Error as error:
        raise DataError(f"{where}: line {rows.line_num}: {error}; repair the table") from None


def _rows(rows: Any, places: list[int], width: int, name: str, where: str) -> dict[str, Tag]:
    tags: dict[str, Tag] = {}
    wrong = []
    for row in rows:
        if not row:
            continue
        origin = f"{name} line {rows.line_num}"
        if len(row) != width:
            wrong.append(f"line {rows.line_num} has {count(len(row), 'cell')} and not {width}")
            continue
        path, label = (row[place].strip() for place in places)
        path = posixpath.normpath(path) if path else ""
        if not path or not label:
            wrong.append(f"line {rows.line_num} has no {'label' if path else 'file'}")
        elif path in tags and tags[path].text != label:
            wrong.append(f"line {rows.line_num} gives {printable(path)} a second label")
        else:
            tags[path] = Tag(label, origin)
    if wrong:
        more = f" and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise DataError(f"{where}: {', '.join(islice(wrong, NAMED))}{more}; repair the table")
    return tags
