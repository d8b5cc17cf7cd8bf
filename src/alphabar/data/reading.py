"""How images are to be read: one value that every source takes, so that all of them keep the same rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from alphabar.base.errors import ConfigError
from alphabar.data.fit import FITS
from alphabar.data.pages import PAGES

__all__ = ["Reading", "Watch", "unwatched"]

# (files done, files in all, what is done with them)
Watch = Callable[[int, int, str], None]


def unwatched(done: int, total: int, what: str) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class Reading:
    """The settings of reading. Raises :class:`ConfigError` for one that cannot be.

    ``size`` is the side of the square to which images of other sizes are brought, or None: their own size where all
    have the same, a chosen square otherwise. ``fit`` names the way, one of :data:`~alphabar.data.fit.FITS`; ``pages``
    what becomes of files with several, one of :data:`~alphabar.data.pages.PAGES`. ``value_range`` (low, high) says
    which stored values are black and white where files hold more than 8 bits. ``background`` is the grey level behind
    transparency and around padded images. ``again`` reads every file even where decoded images are kept. ``watch`` is
    told how it goes.
    """

    size: int | None = None
    fit: str = "crop"
    pages: str = "first"
    value_range: tuple[float, float] | None = None
    background: int = 255
    again: bool = False
    watch: Watch = field(default=unwatched, compare=False)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"size = {self.size}: the side of the images in pixels must be at least 1")
        FITS.named(self.fit, "data.fit"), PAGES.named(self.pages, "data.pages")
        if not 0 <= self.background <= 255:
            raise ConfigError(f"background = {self.background}: must be a grey level from 0 to 255")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(f"value_range = [{low:g}, {high:g}]: needs two finite numbers, the lower one first")
