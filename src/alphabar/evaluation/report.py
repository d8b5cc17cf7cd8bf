"""One self-contained HTML page about a run: text, tables and pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Section", "page"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid #8884; padding-bottom: .2rem; }
figure { margin: .8rem 0; }
figcaption, .note { color: #777; font-size: .92rem; max-width: 46rem; }
img { max-width: 100%; image-rendering: pixelated; background: #fff; }
img.smooth { image-rendering: auto; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; background: #8881; padding: .8rem; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, what it shows, and pictures (name of the file type, bytes, caption), rows or plain text.

    ``smooth`` pictures are scaled as photographs, others by whole pixels.
    """

    title: str
    note: str = ""
    pictures: Sequence[tuple[str, bytes, str]] = ()
    rows: Sequence[tuple[str, str]] = ()
    text: str = ""
    smooth: bool = False


def _picture(kind: str, data: bytes, caption: str, smooth: bool) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    css = ' class="smooth"' if smooth else ""
    words = html.escape(caption)
    return f'<figure><img{css} src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.note:
        parts.append(f'<p class="note">{html.escape(section.note)}</p>')
    parts += [_picture(kind, data, caption, section.smooth) for kind, data, caption in section.pictures]
    if section.rows:
        cells = [f'<tr><th>{html.escape(k)}</th><td class="number">{html.escape(v)}</td></tr>' for k, v in section.rows]
        parts.append(f"<table>{''.join(cells)}</table>")
    if section.text:
        parts.append(f"<pre>{html.escape(section.text)}</pre>")
    return "\n".join(parts)


def page(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
    """The page, UTF-8."""
    body = "\n".join(map(_section, sections))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p>\n{body}\n</body></html>\n"
    ).encode()
