"""Many faults in one run, as the campaign mixes them for 2,000 steps."""

from __future__ import annotations

from reliability.runner import Toy
from reliability.soak import memory_growth, soak


def test_a_short_soak(forks, place):
    (place / "soak").mkdir()
    toy = Toy(forks, place / "soak", steps=150, save=5, preview=50)
    outcome = soak(toy, faults=8, seed=4)
    assert outcome.trials == 8 and not outcome.failures
    assert memory_growth(toy) < 0.05
