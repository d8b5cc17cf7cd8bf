"""Rows and columns of small pictures with words around them, every pixel drawn as a square of whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.evaluation.figures.render import DARK, GREY, WIDTH, size_in_pixels, text_widths
from alphabar.evaluation.pictures import enlarge, to_pil

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Sheet"]

MARGIN = 24
GAP = 4
WIDE_GAP = 22
LARGEST, SMALLEST, WIDER = 128, 64, 1.15
LABEL, SMALL = 8.0, 7.0
LINE = 24


@dataclass(frozen=True, eq=False)
class Sheet:
    """``rows`` of as many pictures uint8 [C, H, W] (None leaves a place empty), and the words around them.

    Attributes:
        rows: the pictures.
        columns: a word above each column.
        left: a word or two lines before each row.
        below: a short word under each picture, for each row.
        heads: (first column, last column, words) above the words of the columns.
        breaks: columns after which there is a wider gap.
        row_breaks: rows after which there is a wider gap.
    """

    rows: Sequence[Sequence[Tensor | None]]
    columns: Sequence[str] = ()
    left: Sequence[str] = ()
    below: Sequence[Sequence[str]] = ()
    heads: Sequence[tuple[int, int, str]] = ()
    breaks: Sequence[int] = ()
    row_breaks: Sequence[int] = ()

    @property
    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = next(p for row in self.rows for p in row if p is not None).shape
        return channels, height, width

    def picture(self, least: int = 64) -> Tensor:
        """The pictures alone on white, enlarged by whole factors: uint8 [C, H, W]."""
        _, height, width = self._shape
        factor = max(1, -(-least // max(height, width)))
        tall = [GAP + i * (height * factor + GAP) for i in range(len(self.rows))]
        wide = [GAP + j * (width * factor + GAP) for j in range(len(self.rows[0]))]
        return self._compose(wide, tall, width * factor, height * factor, GAP)

    def _compose(self, wide: list[int], tall: list[int], width: int, height: int, edge: int) -> Tensor:
        """The pictures at the given left and upper edges, each ``width`` by ``height`` pixels."""
        sheet = torch.full((self._shape[0], tall[-1] + height + edge, wide[-1] + width + edge), 255, dtype=torch.uint8)
        for top, row in zip(tall, self.rows, strict=True):
            for left, picture in zip(wide, row, strict=True):
                if picture is not None:
                    sheet[:, top : top + height, left : left + width] = _scaled(picture, width, height)
        return sheet

    def draw(self, figure: Canvas) -> None:
        """Fill an empty matplotlib figure, whose size is set here."""
        _, height, width = self._shape
        count = len(self.rows[0])
        margin = MARGIN + (round(max(text_widths(self.left, LABEL))) + 10 if any(self.left) else 0)
        gaps = [WIDE_GAP if j in self.breaks else GAP for j in range(count - 1)]
        room = (WIDTH - margin - MARGIN - sum(gaps)) // count
        side = min(LARGEST, room)
        factor = side // max(height, width)
        if factor < 2 and (factor + 1) * max(height, width) <= min(LARGEST, room * WIDER):
            factor += 1
        if factor:
            width, height = width * factor, height * factor
        else:
            # larger than the place for it: made smaller, but not below what can be recognised
            shrink = max(side, SMALLEST) / max(height, width)
            width, height = round(width * shrink), round(height * shrink)
        notes = [LINE - 2 if any(line) else 0 for line in self.below] or [0] * len(self.rows)
        wide = [j * width + sum(gaps[:j]) for j in range(count)]
        row_gaps = [WIDE_GAP if i in self.row_breaks else GAP for i in range(len(self.rows) - 1)]
        tall = [i * height + sum(notes[:i]) + sum(row_gaps[:i]) for i in range(len(self.rows))]
        sheet = self._compose(wide, tall, width, height, 0)

        above = 6 + (LINE + 4 if self.heads else 0) + (LINE if self.columns else 0)
        total_width = max(WIDTH, margin + sheet.shape[2] + MARGIN)
        total_height = above + sheet.shape[1] + notes[-1] + 6
        first = margin + (total_width - margin - MARGIN - sheet.shape[2]) // 2
        size_in_pixels(figure, total_width, total_height)

        def at(x: float, y: float, words: str, size: float, colour: str = DARK, ha: str = "center") -> None:
            place = x / total_width, 1 - y / total_height
            figure.text(*place, words, size=size, color=colour, ha=ha, va="center", linespacing=1.25)

        axes = figure.add_axes(
            (
                first / total_width,
                1 - (above + sheet.shape[1]) / total_height,
                sheet.shape[2] / total_width,
                sheet.shape[1] / total_height,
            )
        )
        array = np.asarray(sheet.permute(1, 2, 0))
        shown = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
        axes.imshow(shown, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for left, words in zip(wide, self.columns, strict=False):
            at(first + left + width / 2, above - LINE / 2 - 1, words, LABEL)
        for begin, end, words in self.heads:
            middle = first + (wide[begin] + wide[end] + width) / 2
            at(middle, LINE / 2 + 4, words, LABEL, GREY)
        for top, words in zip(tall, self.left, strict=False):
            at(first - 10, above + top + height / 2, words, LABEL, ha="right")
        for top, line in zip(tall, self.below, strict=False):
            for left, words in zip(wide, line, strict=False):
                at(first + left + width / 2, above + top + height + LINE / 2 - 1, words, SMALL, GREY)


def _scaled(picture: Tensor, width: int, height: int) -> Tensor:
    """``picture`` at that size: pixels repeated, or averaged where it is too large."""
    if width >= picture.shape[2] and height >= picture.shape[1]:
        return enlarge(picture[None], max(width, height))[0]
    small = np.array(to_pil(picture).resize((width, height), Image.Resampling.BOX))
    return torch.from_numpy(small.reshape(height, width, -1)).permute(2, 0, 1)
