"""What the files of a set turned out to be: counts, and lists by name. Made by the scan that training uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alphabar.base.errors import DataError, printable

if TYPE_CHECKING:
    from alphabar.data.batch import Images

__all__ = ["MOST_BAD_PER_CENT", "Bad", "Survey", "Unusable"]

MOST_BAD_PER_CENT = 5
NAMED = 3


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used, and why; ``low`` and ``high`` are its values where only their range is missing."""

    path: str
    reason: str
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return f"{printable(self.path)} ({printable(self.reason)})"


@dataclass
class Survey:
    """``files`` names the file of every image; the lists name files, each image's pixels as the network will see them.

    ``repeats`` are (a file, the earlier one that has the same pixels), ``off_size`` (a file, its size) where another
    size is the most common. ``values`` are the least and greatest value stored where files hold more than 8 bits.
    """

    files: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = ()
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    repeats: tuple[tuple[str, str], ...] = ()
    constant: tuple[str, ...] = ()
    off_size: tuple[tuple[str, str], ...] = ()
    values: tuple[float, float] | None = None

    @property
    def too_many_bad(self) -> bool:
        """Whether more files are bad than training tolerates."""
        good = len(set(self.files))
        return len(self.bad) * 100 > MOST_BAD_PER_CENT * (good + len(self.bad))


class Unusable(DataError):
    """More files are bad than is tolerated; ``survey`` has them all, ``images`` those that are good, if any.

    ``summary`` is the message without the pointer to ``data check``.
    """

    def __init__(self, where: str, survey: Survey, notes: Iterable[str], images: Images | None = None) -> None:
        self.survey, self.notes, self.images = survey, tuple(notes), images
        bad, good = survey.bad, len(set(survey.files))
        named = ", ".join(map(str, bad[:NAMED]))
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        files = f"{len(bad):,} file{'s' if len(bad) > 1 else ''} cannot be used: {named}{more}"
        share = f"that is {len(bad):,} of {len(bad) + good:,}, allowed are {MOST_BAD_PER_CENT} %"
        self.summary = f"{where}: {files}; {share}; {_advice(survey)}"
        super().__init__(f"{self.summary}; alphabar data check {where} lists all")


def _advice(survey: Survey) -> str:
    lows = [bad.low for bad in survey.bad if bad.low is not None]
    highs = [bad.high for bad in survey.bad if bad.high is not None]
    if lows and highs:
        return f"give the values of black and white, data.value_range=[{min(lows):.6g},{max(highs):.6g}]"
    return f"repair or remove {'it' if len(survey.bad) == 1 else 'them'}"
