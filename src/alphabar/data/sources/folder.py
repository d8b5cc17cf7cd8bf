"""A folder of image files; sub-folders are classes."""

from __future__ import annotations

import os
from typing import BinaryIO

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images
from alphabar.data.kept import kept_scan
from alphabar.data.reading import Reading
from alphabar.data.sources.paths import exists
from alphabar.data.store import Tag
from alphabar.data.text import spec_of, stem
from alphabar.data.walk import Walk, walk

__all__ = ["open_folder"]


class _Folder:
    def __init__(self, path: str) -> None:
        self.root = os.path.abspath(path)
        self.where, self.name, self.spec = printable(path), stem(path), spec_of("folder", self.root)

    def listing(self) -> Walk:
        return walk(self.root)

    def open(self, name: str) -> BinaryIO:
        return open(os.path.join(self.root, name), "rb")

    def tags(self, files: list[str]) -> dict[str, Tag]:
        return {}

    def class_names(self) -> tuple[str, ...]:
        return ()


def open_folder(path: str, reading: Reading | None = None) -> Images:
    """All images below the folder ``path``, in the order of the bytes of their relative paths.

    If every image lies in a sub-folder, each first-level sub-folder is a class, unless a table of labels says
    otherwise. Raises :class:`DataError` where :func:`~alphabar.data.scan.scan` does, and if there is no such folder.
    """
    folder = _Folder(path)
    if not os.path.isdir(folder.root):
        what = "is not a folder" if exists(folder.root) else "no such folder"
        raise DataError(f"{folder.where}: {what}; give the folder that holds the images")
    return kept_scan(folder, reading or Reading())
