"""Tables with a column of encoded images: parquet files, and data sets that Hugging Face ``datasets`` saved to disk.

Local files only. Needs pyarrow. Rows are copied once into a nameless temporary file, so that threads can read them in
any order; a second start with the same files takes the decoded images that were kept.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, cast

from alphabar.base.errors import DataError, MissingExtra, StorageError, printable
from alphabar.data.batch import Images
from alphabar.data.kept import kept_scan
from alphabar.data.reading import Reading
from alphabar.data.sources.archives import Spool
from alphabar.data.sources.paths import regular_file, split_part
from alphabar.data.store import Tag
from alphabar.data.text import PARTS, reason, spec_of, stem
from alphabar.data.walk import Walk, is_junk, walk

__all__ = ["is_tables", "open_hub"]

SUFFIXES = (".parquet", ".arrow")
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")
ROWS = 64


def is_tables(folder: str) -> bool:
    """Whether a folder holds, at the top or in ``data``, tables of images and no other files but notes."""
    try:
        names = [name for name in os.listdir(folder) if not is_junk(name)]
    except OSError:
        return False
    if names.count("data") and os.path.isdir(os.path.join(folder, "data")):
        names.remove("data")
        names += os.listdir(os.path.join(folder, "data"))
    return any(name.endswith(SUFFIXES) for name in names) and all(
        name.endswith((*SUFFIXES, ".json", ".md", ".txt", ".lock")) for name in names if not is_junk(name)
    )


def open_hub(path: str, reading: Reading | None = None) -> Images:
    """All images of the tables at ``path``: a file, or a folder of them, of which ``path#test`` takes the test part.

    The images are in a column called image (or img, picture, jpg, png), encoded; labels in one called label (or
    labels, fine_label, class, target, y). Raises :class:`DataError` for damaged tables and other columns, and where
    :func:`~alphabar.data.scan.scan` does; :class:`MissingExtra` without pyarrow.
    """
    try:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise MissingExtra(f"{printable(path)}: a table of images", "pyarrow", "hub") from None
    place, part = split_part(path)
    store = _Tables(place, part, _files(place, part), pyarrow)
    try:
        return kept_scan(store, reading or Reading())
    finally:
        store.close()


def _files(path: str, part: str) -> list[str]:
    if not os.path.isdir(path):
        regular_file(path)
        return [path]
    files = [name for name in walk(path).files if name.endswith(SUFFIXES)]
    named = [name for name in files if re.match(rf"(.*/)?{part}\b", name)]
    if not named and (part != PARTS[0] or not files):
        raise DataError(f"{printable(path)}: no tables of the {part} part; it holds {', '.join(files[:4]) or 'none'}")
    return [os.path.join(path, name) for name in named or files]


class _Tables:
    def __init__(self, path: str, part: str, files: list[str], pyarrow: Any) -> None:
        self.where, self.spec = printable(path), spec_of("hub", path, part)
        self.name = stem(path) + ("" if part == PARTS[0] else f" {part}")
        self.files, self.pyarrow = files, pyarrow
        # tables of one name may lie in different folders, so each is called by its path below what holds them all
        top = os.path.commonpath([os.path.dirname(file) for file in files])
        self.names = {file: os.path.relpath(file, top) for file in files}
        self.spool: Spool | None = None
        self.lock = threading.Lock()
        self.labels: dict[str, Tag] = {}
        self.known: tuple[str, ...] = ()

    def close(self) -> None:
        if self.spool is not None:
            self.spool.file.close()

    def listing(self) -> Walk:
        found = Walk()
        for file in self.files:
            status = os.stat(file)
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for row in range(self._rows(file)):
                found.files.append(_row_name(self.names[file], row))
                found.stamps[found.files[-1]] = stamp
                found.inner[found.files[-1]] = str(row)
        return found

    def open(self, name: str) -> BinaryIO:
        with self.lock:
            if self.spool is None:
                self._fill()
        assert self.spool is not None
        return self.spool.open(name)

    def tags(self, files: list[str]) -> dict[str, Tag]:
        return self.labels

    def class_names(self) -> tuple[str, ...]:
        return self.known

    def _rows(self, file: str) -> int:
        if file.endswith(".arrow"):
            return sum(batch.num_rows for batch in self._batches(file, []))
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

        try:
            return int(pyarrow.parquet.ParquetFile(file).metadata.num_rows)
        except (self.pyarrow.ArrowException, OSError) as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: str, error: Exception) -> DataError:
        return DataError(f"{printable(file)}: damaged or truncated table ({printable(reason(error))}); copy it again")

    def _batches(self, file: str, columns: list[str]) -> Iterator[Any]:
        """Record batches with the given columns, or with all."""
        try:
            if file.endswith(".arrow"):
                with self.pyarrow.memory_map(file) as source:
                    yield from self.pyarrow.ipc.open_stream(source)
            else:
                import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

                yield from pyarrow.parquet.ParquetFile(file).iter_batches(ROWS, columns=columns)
        except (self.pyarrow.ArrowException, OSError) as error:
            raise self._damaged(file, error) from error

    def _schema(self, file: str) -> Any:
        if file.endswith(".arrow"):
            with self.pyarrow.memory_map(file) as source:
                return self.pyarrow.ipc.open_stream(source).schema
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return pyarrow.parquet.read_schema(file)

    def _fill(self) -> None:
        with ExitStack() as until_it_is_whole:
            spool = Spool(until_it_is_whole.enter_context(cast(BinaryIO, tempfile.TemporaryFile())))
            for file in self.files:
                schema = self._schema(file)
                image = self._column(file, schema.names, IMAGE_COLUMNS)
                label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
                self.known = self.known or _class_names(schema, label)
                row = 0
                for batch in self._batches(file, [image] if label is None else [image, label]):
                    images = batch.column(schema.names.index(image) if file.endswith(".arrow") else image)
                    texts = [None] * len(images) if label is None else batch.column(label).to_pylist()
                    for value, text in zip(images, texts, strict=True):
                        name = _row_name(self.names[file], row)
                        _keep(spool, name, value.as_py())
                        if text is not None:
                            self.labels[name] = Tag(str(text), f"column {label}")
                        row += 1
            spool.file.flush()
            until_it_is_whole.pop_all()
        self.spool = spool

    def _column(self, file: str, names: list[str], wanted: tuple[str, ...]) -> str:
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise DataError(
                f"{printable(file)}: its columns are {', '.join(map(printable, names[:8]))}; the images must be in one "
                f"of {', '.join(wanted)}"
            )
        return found


def _row_name(table: str, row: int) -> str:
    return f"{table}:{row:07}"


def _keep(spool: Spool, name: str, value: Any) -> None:
    data = value.get("bytes") if isinstance(value, dict) else value
    data = data if isinstance(data, bytes) else b""
    spool.pieces[name] = (spool.file.tell(), len(data))
    try:
        spool.file.write(data)
    except OSError as error:
        folder = printable(tempfile.gettempdir())
        raise StorageError(f"{folder}: {reason(error)}; free some, or point TMPDIR to another disk") from error


def _class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    """The names that ``datasets`` keeps beside the numbers of a column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(printable(name) for name in names) if isinstance(names, list) else ()
