"""Signals that ask a run to stop: SIGTERM and SIGUSR1 of a scheduler, Ctrl-C of a person."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from alphabar.base.errors import Stopped

__all__ = ["INTERRUPTED", "Stop", "before_the_first_step", "stopped"]

PREEMPTED, INTERRUPTED = 75, 130


class Stop:
    """While entered, a signal is noted for the loop, which finishes its step, saves and leaves.

    A second Ctrl-C raises ``KeyboardInterrupt`` at once. A second SIGTERM does not: schedulers repeat it, and the save
    that the first one asked for must be finished.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


def stopped(asked: signal.Signals, step: int) -> Stopped:
    """What ends a run that was asked to stop and has saved ``step``."""
    return Stopped(step, asked.name, INTERRUPTED if asked == signal.SIGINT else PREEMPTED)


@contextlib.contextmanager
def before_the_first_step() -> Iterator[None]:
    """While images are read and the plan is made, SIGTERM and SIGUSR1 end the command: there is nothing to save yet.

    Raises:
        Stopped: with exit code 75, so that a scheduler runs the command again.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise Stopped(None, signal.Signals(number).name, PREEMPTED)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
