"""Opening images with the settings of a run, while the terminal shows how far it is."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from alphabar.base.choice import from_table
from alphabar.cli.console import Bar, progress
from alphabar.data.batch import Images
from alphabar.data.reading import Reading
from alphabar.data.sources import open_source
from alphabar.runtime.config import plain
from alphabar.training.config import DataConfig

__all__ = ["open_watched", "reading_of"]

QUICK_SECONDS = 2


def reading_of(data: Mapping[str, Any]) -> Reading:
    """How the section ``data`` of a config asks for images to be read.

    Raises:
        ConfigError: for a setting that cannot be.
    """
    return from_table(DataConfig, plain(data), "data").reading()


def open_watched(source: str, reading: Reading) -> Images:
    """:func:`~alphabar.data.sources.open_source`; whatever takes longer than two seconds shows its progress."""
    with _watch(reading) as watched:
        return open_source(source, watched)


@contextlib.contextmanager
def _watch(reading: Reading) -> Iterator[Reading]:
    began = time.monotonic()
    shown: dict[str, Bar] = {}
    with contextlib.ExitStack() as stack:

        def show(done: int, total: int, what: str) -> None:
            if what not in shown:
                if done >= total or time.monotonic() - began < QUICK_SECONDS:
                    return
                stack.close()  # the bar of the pass before
                shown[what] = stack.enter_context(progress(total, what, done))
            shown[what].update(done, "files")

        yield dataclasses.replace(reading, watch=show)
