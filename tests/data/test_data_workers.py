"""Work on threads that can be given up: every item gets its result, however many are late and wherever they stand."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

import pytest

from alphabar.data import workers


@pytest.mark.parametrize("late", [{0, 1, 23}, {1, 3, 4}], ids=str)
@pytest.mark.parametrize("ahead", [8, 16])
def test_late_items_leave_somebody_to_do_the_rest(
    monkeypatch: pytest.MonkeyPatch, late: Collection[int], ahead: int
) -> None:
    """More late items than threads, at the beginning and at the end of the one or two that a thread takes at once."""
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.01)
    released = threading.Event()
    results: list[int] = []

    def work(n: int) -> int:
        while n in late and not released.is_set() and time.thread_time() < 1:
            sum(range(1000))
        return n

    def read() -> None:
        results.extend(workers.in_order(work, range(24), limit=0.1, late=lambda n: ~n, ahead=ahead))

    # a reader that waits for ever must not keep the tests from ending
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    released.set()
    assert results == [~n if n in late else n for n in range(24)]
