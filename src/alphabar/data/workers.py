"""Work on many files at once, in order, on threads that can be given up: a file may take a decoder minutes.

A limit counts the processor's time where the system tells it per thread, so that a busy machine changes nothing. A
thread cannot be stopped from outside; one that is over the limit is left to itself, its result is dropped and
another thread takes its place. It ends with the process at the latest.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["in_order"]

AHEAD = 64
LOOK_EVERY = 0.2

T = TypeVar("T")
S = TypeVar("S")


def in_order(
    function: Callable[[S], T],
    items: Sequence[S],
    *,
    limit: float,
    late: Callable[[S], T],
    ahead: int = AHEAD,
) -> Iterator[T]:
    """``function`` of every item, in order, on one thread per processor, at most about ``ahead`` items in advance.

    The result of an item that takes more than ``limit`` seconds of work is ``late(item)``. An exception of the
    function is raised here, at its item.
    """
    work = _Work(function, items, limit, late, ahead)
    try:
        for n in range(len(items)):
            yield work.result(n)
    finally:
        work.stop()


@dataclass
class _Turn:
    """What a thread works at, since when by its own clock; ``given_up`` tells it that nobody waits any more."""

    clock: Callable[[], float]
    run: range = range(0)
    item: int = -1
    began: float = 0.0
    given_up: bool = False


class _Work(Generic[S, T]):
    def __init__(
        self, function: Callable[[S], T], items: Sequence[S], limit: float, late: Callable[[S], T], ahead: int
    ) -> None:
        self.function, self.items, self.limit, self.late, self.ahead = function, items, limit, late, ahead
        self.results: dict[int, T | BaseException] = {}
        self.again: list[range] = []
        self.next, self.wanted, self.stopped = 0, 0, False
        self.changed = threading.Condition()
        self.turns: list[_Turn] = []
        for _ in range(min(os.cpu_count() or 1, len(items))):
            self._hire()

    def _hire(self) -> None:
        threading.Thread(target=self._work, name="alphabar-decode", daemon=True).start()

    def _take(self) -> range:
        """The next few items, empty when all are taken."""
        if self.again:
            return self.again.pop()
        # a few at once, because handing over costs as much as decoding a small image
        run = range(self.next, min(self.next + max(1, self.ahead // 8), len(self.items)))
        self.next = run.stop
        return run

    def _work(self) -> None:
        turn = _Turn(_own_clock())
        with self.changed:
            self.turns.append(turn)
        while True:
            with self.changed:
                turn.item = -1
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.stopped or self.again or self.next < self.wanted + self.ahead)
                turn.run = range(0) if self.stopped else self._take()
            if not turn.run:
                return
            for n in turn.run:
                turn.began, turn.item = turn.clock(), n
                try:
                    outcome: T | BaseException = self.function(self.items[n])
                except BaseException as error:
                    outcome = error
                with self.changed:
                    if turn.given_up or self.stopped:
                        return
                    self.results[n] = outcome

    def result(self, n: int) -> T:
        with self.changed:
            self.wanted = n
            self.changed.notify_all()
            while n not in self.results:
                self.changed.wait(LOOK_EVERY)
                self._give_up_the_late()
            outcome = self.results.pop(n)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _give_up_the_late(self) -> None:
        for turn in [turn for turn in self.turns if turn.item >= 0]:
            n = turn.item
            if n not in self.results and n >= self.wanted and turn.clock() - turn.began > self.limit:
                turn.given_up = True
                self.turns.remove(turn)
                self.results[n] = self.late(self.items[n])
                # nothing to take means to a thread that all is done
                if rest := range(n + 1, turn.run.stop):
                    self.again.append(rest)
                self._hire()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


def _own_clock() -> Callable[[], float]:
    """A clock of the calling thread's work that other threads may read."""
    ident = threading.get_ident()
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic
    clock = time.pthread_getcpuclockid(ident)
    return lambda: time.clock_gettime(clock)
