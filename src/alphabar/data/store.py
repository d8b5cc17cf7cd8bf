"""Places that hold image files: a folder, an archive, a table. The scan reads all of them in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Protocol

from alphabar.data.walk import Walk

__all__ = ["Store", "Tag"]


@dataclass(frozen=True)
class Tag:
    """A label that a store knows of a file, as written; ``origin`` says where, for messages."""

    text: str
    origin: str


class Store(Protocol):
    """``where`` is how messages call the place, ``spec`` the SOURCE text that opens it again, ``name`` for people."""

    @property
    def where(self) -> str:
        """The path, printable."""

    @property
    def name(self) -> str:
        """A short name."""

    @property
    def spec(self) -> str:
        """Text for ``open_source``."""

    def listing(self) -> Walk:
        """All files, in a stable order. Raises :class:`DataError` if the place cannot be read or is a trap."""

    def open(self, name: str) -> BinaryIO:
        """A file of the listing, open for reading and seeking; any number of threads may have some open."""

    def tags(self, files: list[str]) -> dict[str, Tag]:
        """The labels that the store itself knows of the images ``files``; empty if it knows none."""

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 0, 1, … where the store knows them, else empty."""
