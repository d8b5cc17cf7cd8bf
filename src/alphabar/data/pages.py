"""What becomes of a file that holds several pictures: pages of a TIFF, frames of an animation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError
from alphabar.base.registry import Registry

__all__ = ["PAGES", "Pages"]

Pixels = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Pages:
    """A way to make images of pages; ``note`` says it in the plan. Without ``every`` only the first page counts."""

    note: str
    every: bool = False
    stacked: bool = False

    def images(self, pages: int) -> int:
        """How many images a file of so many pages makes."""
        return pages if self.every and not self.stacked else 1

    def channels(self, channels: int, pages: int) -> int:
        """How many channels an image has whose pages have ``channels``."""
        return channels * pages if self.stacked else channels

    def join(self, pages: list[Pixels]) -> list[Pixels]:
        """Images [H, W] or [H, W, C] of the decoded pages. Raises :class:`DataError` where pages are no channels."""
        if not self.stacked or len(pages) == 1:
            return pages
        if any(page.ndim != 2 or page.shape != pages[0].shape for page in pages):
            raise DataError("its pages are not all grey and of one size, so they cannot be channels")
        return [np.stack(pages, axis=-1)]


PAGES: Registry[Pages] = Registry(
    "pages",
    {
        "first": Pages("with several frames, only the first used (data.pages=images or channels uses all)"),
        "images": Pages("with several frames, each an image", every=True),
        "channels": Pages("with several frames as channels", every=True, stacked=True),
    },
)
