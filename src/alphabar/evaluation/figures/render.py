"""From matplotlib to a PNG file: one width, one style, the title above and the caption below."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from alphabar.base.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "DARK",
    "DPI",
    "FIRST",
    "GREY",
    "SECOND",
    "WIDTH",
    "Pixels",
    "check_matplotlib",
    "drawn",
    "plot_area",
    "png",
    "size_in_pixels",
    "text_widths",
    "whole_numbers",
]

DPI = 150
WIDTH = 960
MARGIN = 24
FIRST, SECOND = "#1f4e8c", "#c2410c"
DARK, GREY = "#222222", "#6b7280"
TITLE, CAPTION = 11.5, 8.0
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": DARK,
    "ytick.labelcolor": DARK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "mathtext.fontset": "dejavusans",
    "text.hinting": "no_hinting",
}
# blanks at which no line ends
GLUE = re.compile(r" = |\b(?:Eqs?\.|Figs?\.|Table|Section|[Ss]eeds?|[Ii]mages) (?=\d)")
Pixels = npt.NDArray[np.uint8]


def check_matplotlib() -> None:
    """Raise :class:`MissingExtra` without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtra("drawing figures", "matplotlib", "plots") from None


def drawn(draw: Callable[[Canvas], None]) -> Pixels:
    """What ``draw`` makes of an empty matplotlib figure, ``WIDTH`` pixels wide or wider: uint8 [H, W, 3]."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(cast(Any, STYLE)):
        figure = Canvas(dpi=DPI)
        draw(figure)
        return _pixels(figure)


def png(body: Pixels, title: str = "", caption: str = "") -> bytes:
    """A PNG file of ``body`` with its title above and its caption below, where there are any."""
    import matplotlib

    parts = [body]
    with matplotlib.rc_context(cast(Any, STYLE)):
        if title:
            parts.insert(0, _words(title, body.shape[1], TITLE, bold=True))
        if caption:
            parts.append(_words(caption, body.shape[1], CAPTION))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts)).save(buffer, "PNG")
    return buffer.getvalue()


def size_in_pixels(figure: Canvas, width: int, height: int) -> None:
    """Make ``figure`` so large that a pixel of the file is a unit of layout."""
    figure.set_size_inches((width + 0.01) / DPI, (height + 0.01) / DPI)


def plot_area(figure: Canvas, height: int) -> None:
    """Make ``figure`` as wide as every other and ``height`` pixels high, for axes that share its room."""
    size_in_pixels(figure, WIDTH, height)
    edge = MARGIN / 2 / WIDTH
    figure.set_layout_engine("constrained", rect=(edge, 0, 1 - 2 * edge, 1))


def whole_numbers(axes: Axes) -> None:
    """Put no fractions on the x axis, where they would be half steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))


def _pixels(figure: Canvas) -> Pixels:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return np.asarray(Image.open(buffer).convert("RGB"))


def text_widths(texts: Sequence[str], size: float) -> list[float]:
    """The width in pixels of each of several lines of text."""
    from matplotlib.figure import Figure as Canvas

    line = Canvas(dpi=DPI).text(0, 0, "", size=size, parse_math=False)
    widths = []
    for text in texts:
        line.set_text(text)
        widths.append(float(line.get_window_extent().width))
    return widths


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """``text`` in lines no wider than ``width`` pixels; *t = 5* and *Fig. 5* are not torn apart."""
    words = GLUE.sub(lambda blank: blank[0].replace(" ", "\u00a0"), text).split(" ")
    pair, *widths = text_widths(["n n", *words], size)
    blank = pair - 2 * text_widths(["n"], size)[0]
    lines: list[str] = []
    used = 0.0
    for word, long in zip(words, widths, strict=True):
        if lines and used + blank + long <= width:
            lines[-1] += f" {word}"
            used += blank + long
        else:
            lines.append(word)
            used = long
    return lines


def _words(text: str, width: int, size: float, *, bold: bool = False) -> Pixels:
    """A paragraph on white, uint8 [H, width, 3]."""
    from matplotlib.figure import Figure as Canvas

    lines = _wrapped(text, width - 2 * MARGIN, size * (1.12 if bold else 1.0))
    step = round(size * DPI / 72 * 1.45)
    height = step * len(lines) + MARGIN
    figure = Canvas(dpi=DPI)
    size_in_pixels(figure, width, height)
    for i, line in enumerate(lines):
        figure.text(
            MARGIN / width,
            1 - (MARGIN / 2 + (i + 0.78) * step) / height,
            line,
            size=size,
            weight="bold" if bold else "normal",
            color=DARK,
            parse_math=False,
        )
    return _pixels(figure)
