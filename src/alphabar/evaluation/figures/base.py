"""What a figure is: numbers, pictures and words that can be written to files and shown in a notebook."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from alphabar.base.errors import MissingExtra
from alphabar.base.storage import write_file
from alphabar.evaluation import pictures
from alphabar.evaluation.figures import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Cell", "Figure", "Picture", "Table"]

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Names of columns, with units, and rows of as many values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def csv(self) -> bytes:
        """As a CSV file; numbers as Python prints them, so that none loses a digit."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return buffer.getvalue().encode()

    def text(self, digits: int = 5) -> str:
        """Columns aligned to the right, for people."""
        cells = [list(self.columns)]
        cells += [[f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("   ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells)


class Picture(NamedTuple):
    """A file of the type ``kind``; ``drawn`` by matplotlib with words and axes, or a plain grid of pixels."""

    kind: str
    data: bytes
    drawn: bool


@dataclass(frozen=True, eq=False)
class Figure:
    """One experiment as data and as a picture.

    Attributes:
        name: the stem of its files.
        title: a short heading.
        caption: what is seen, how it was made and what to notice, for readers without the paper.
        draw: fills an empty matplotlib figure; title and caption are added around it.
        arrays: the data, for ``NAME.npz``.
        tables: by suffix of the file name, for ``NAME.csv`` (suffix ``""``) or ``NAME-SUFFIX.csv``.
        grids: pictures uint8 [C, H, W] that need no matplotlib, for ``NAME-SUFFIX.png``.
        frames: pictures uint8 [C, H, W] of an animation, for ``NAME.gif`` and ``NAME.webp``.
        text: a short table in plain text, for ``NAME.txt``.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Canvas], None]
    arrays: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    grids: Mapping[str, Tensor] = field(default_factory=dict)
    frames: Sequence[Tensor] = ()
    text: str = ""

    def png(self, *, words: bool = True) -> bytes:
        """The picture as a PNG file, with title and caption in it unless ``words`` is false.

        Raises:
            MissingExtra: without matplotlib.
        """
        render.check_matplotlib()
        return render.png(self._drawn, self.title, self.caption) if words else render.png(self._drawn)

    @cached_property
    def _drawn(self) -> render.Pixels:
        return render.drawn(self.draw)

    def write(self, folder: Path) -> list[Path]:
        """Write every file of the figure into ``folder``; without matplotlib all but ``NAME.png``.

        Raises:
            StorageError: if the disk refuses.
        """
        files: dict[str, bytes] = {}
        try:
            files[".png"] = self.png()
        except MissingExtra:
            pass
        for suffix, grid in self.grids.items():
            files[f"-{suffix}.png"] = pictures.png(grid)
        if self.frames:
            files[".gif"] = pictures.animation(self.frames, "GIF")
            files[".webp"] = pictures.animation(self.frames, "WEBP")
        if self.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **dict(self.arrays))  # type: ignore[arg-type]
            files[".npz"] = buffer.getvalue()
        for suffix, table in self.tables.items():
            files[f"-{suffix}.csv" if suffix else ".csv"] = table.csv()
        if self.text:
            files[".txt"] = f"{self.text}\n".encode()
        written = []
        for suffix, data in files.items():
            written.append(folder / f"{self.name}{suffix}")
            write_file(written[-1], data)
        return written

    def picture(self) -> Picture | None:
        """The best picture there is, without title and caption; None where there is none.

        That is matplotlib's, else the first plain grid, which a plot of curves does not have.
        """
        try:
            return Picture("png", self.png(words=False), drawn=True)
        except MissingExtra:
            return next((Picture("png", pictures.png(grid), drawn=False) for grid in self.grids.values()), None)

    def _repr_png_(self) -> bytes | None:
        """The picture in a notebook that shows no HTML."""
        try:
            return self.png()
        except MissingExtra:
            found = self.picture()
            return None if found is None else found.data

    def _repr_html_(self) -> str:
        """Title, picture, animation, short table and caption in a notebook."""
        parts = [f"<strong>{html.escape(self.title)}</strong>"]
        found = self.picture()
        shown = [] if found is None else [found]
        if self.frames:
            shown.append(Picture("webp", pictures.animation(self.frames, "WEBP"), drawn=False))
        for kind, data, _ in shown:
            source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            style = "max-width: 100%; display: block"
            parts.append(f'<img src="{source}" alt="{html.escape(self.title)}" style="{style}">')
        if self.text:
            parts.append(f"<pre>{html.escape(self.text)}</pre>")
        parts.append(f'<figcaption style="max-width: 60em">{html.escape(self.caption)}</figcaption>')
        return f"<figure>{''.join(parts)}</figure>"
