"""Memory that a step frees is there for the next one, without asking the system again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alphabar.base.allocator import keep_freed_memory

# 40 MB by pieces of 8 and 2 MB, written to and freed, over and over: the faults of a round after the first two
ROUNDS = """
import resource, sys
import numpy as np
from alphabar.base.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def round():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [np.full(size << 20, 1, np.uint8) for size in (8, 2) * 4]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, [round() for _ in range(8)][-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def rounds(how: str, **environment: str) -> tuple[str, int, int]:
    run = subprocess.run(
        [sys.executable, "-c", ROUNDS, how], capture_output=True, text=True, check=True, env=environment or None
    )
    kept, faults, peak = run.stdout.split()
    return kept, int(faults), int(peak)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_used_again_at_the_same_peak() -> None:
    kept, faults, peak = rounds("keep")
    if kept != "True":
        pytest.skip("another C library, or an environment that sets malloc")
    _, usual_faults, usual_peak = rounds("leave")
    assert faults < 100 < usual_faults
    assert peak < 1.1 * usual_peak


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_an_environment_that_sets_malloc_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
