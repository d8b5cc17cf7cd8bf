"""What an evaluation consists of: some work that takes time, then numbers, each with what it takes to compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from alphabar.evaluation.work import Work

__all__ = ["Study"]


class Study(Protocol):
    """One kind of measurement of one model.

    Attributes:
        works: what takes time, in order; the numbers are there once each has run.
        card: what decides the numbers, as JSON values.
    """

    works: list[Work]
    card: dict[str, Any]

    def numbers(self) -> dict[str, float | None]:
        """The numbers by name; None where there is no error to give."""
        ...

    def lines(self, numbers: dict[str, float | None]) -> list[str]:
        """The numbers for people."""
        ...

    def write(self, stem: Path) -> list[Path]:
        """Tables, arrays and pictures beside the numbers, in files that begin with ``stem``; returns them."""
        ...
