"""The protocol card: everything that decides a number. Two numbers compare where their cards agree."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from alphabar.base.errors import printable
from alphabar.base.version import __version__

__all__ = ["card_lines", "versions"]


def versions() -> dict[str, str]:
    """What computed the number."""
    return {"alphabar": __version__, "torch": torch.__version__, "python": platform.python_version()}


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """The card for people: a line per entry, tables as *key value, key value*."""
    return [f"  {key:<10} {_words(value)}" for key, value in card.items() if value is not None]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            _words(v) if v is not True and key == "name" else f"{key} {_words(v)}"
            for key, v in value.items()
            if v is not None
        )
    if isinstance(value, str):
        return printable(
            value[:12] if len(value) in (32, 64) and all(c in "0123456789abcdef" for c in value) else value
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
