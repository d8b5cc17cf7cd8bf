"""What a long command shows while it works: a progress bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from alphabar.base.errors import printable

__all__ = ["Bar", "duration", "progress", "say"]


def say(text: str) -> None:
    """One line (or several) on stdout; whatever else could move a cursor or hide text is escaped."""
    print("\n".join(map(printable, text.split("\n"))), flush=True)


def duration(seconds: float) -> str:
    """A time span as people say it: ``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    seconds = max(0, round(seconds))
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m:02d} min"
    return f"{minutes} min {s:02d} s" if minutes else f"{s} s"


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None else f"{duration(left)} left")


class Bar:
    """Progress of one command."""

    def __init__(self, total: int, unit: str, bar: Progress | None, done: int) -> None:
        self.total, self.unit, self.bar = total, unit, bar
        self.started, self.first, self.last_line = time.monotonic(), done, time.monotonic()
        self.task = None if bar is None else bar.add_task("", total=total, completed=done, note="")

    def update(self, done: int, note: str = "") -> None:
        """``done`` of the total are finished; ``note`` says how it goes."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self.last_line >= 10 or (done >= self.total and done > self.first):
            self.last_line = now
            left = (now - self.started) / max(1, done - self.first) * (self.total - done)
            say(f"{self.unit} {done}/{self.total}  {note}  {duration(left)} left")

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self.bar is None:
            say(text)
        else:
            self.bar.console.print(printable(text), markup=False, highlight=False)


@contextmanager
def progress(total: int, unit: str, done: int = 0) -> Iterator[Bar]:
    """A :class:`Bar` for the time of the block, on stdout."""
    if not sys.stdout.isatty():
        yield Bar(total, unit, None, done)
        return
    columns = (
        TextColumn(unit),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[note]}"),
        _Left(),
    )
    with Progress(*columns, console=Console(), transient=False, speed_estimate_period=20) as bar:
        yield Bar(total, unit, bar, done)
