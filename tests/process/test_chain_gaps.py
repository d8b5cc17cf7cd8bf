"""Where exactly the spaced chains stop: at the whole time nearest to the real one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

import alphabar as ab

# The real times of `steps` stops on 1 … T, from the noise down.
REAL: dict[str, Callable[[int, int, int], Fraction]] = {
    "uniform": lambda T, steps, k: 1 + Fraction((T - 1) * k, steps - 1),
    "quadratic": lambda T, steps, k: 1 + (T - 1) * Fraction(k, steps - 1) ** 2,
    "trailing": lambda T, steps, k: Fraction(T * (k + 1), steps),
}


@pytest.mark.parametrize(("T", "steps"), [(1000, 7), (1000, 10), (997, 12), (500, 2), (4000, 13)])
@pytest.mark.parametrize("spacing", REAL)
def test_stops_are_the_nearest_times(spacing: str, T: int, steps: int) -> None:
    """Not the ones below: rounding, also where T is no multiple of the number of steps."""
    schedule = ab.Schedule.from_betas(torch.full((T,), 0.01, dtype=torch.float64))
    *stops, end = ab.Chain.spaced(schedule, steps, spacing=spacing).times
    real = [REAL[spacing](T, steps, k) for k in reversed(range(steps))]
    assert end == 0
    assert all(abs(stop - where) <= Fraction(1, 2) for stop, where in zip(stops, real, strict=True))
