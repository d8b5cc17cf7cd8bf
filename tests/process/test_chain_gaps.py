"""Where exactly the spaced chains stop: at the whole time nearest to the real one."""

from __future__ import annotations

import math
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


def log_snr(schedule: ab.Schedule, t: int) -> float:
    """λ = ½ ln ᾱ/(1−ᾱ)."""
    abar = schedule.alpha_bar[t].item()
    return 0.5 * math.log(abar / (1 - abar))


@pytest.mark.parametrize("steps", [2, 3, 10, 25])
@pytest.mark.parametrize("schedule", [ab.schedules.Linear(), ab.schedules.Cosine()], ids=str)
def test_stops_that_are_even_in_the_signal_to_noise_ratio(schedule: ab.ScheduleSpec, steps: int) -> None:
    """T, then the time nearest to the middle of each of steps − 1 stretches of λ from −ln(3 steps) to ln(2 steps)."""
    table = schedule.build()
    first, *stops, end = ab.Chain.spaced(table, steps, spacing="logsnr").times
    assert (first, end) == (1000, 0)
    low, high = -math.log(3 * steps), math.log(2 * steps)
    for k, stop in enumerate(stops):
        middle = low + (high - low) * (k + 0.5) / (steps - 1)
        gap = abs(log_snr(table, stop) - middle)
        assert gap <= min(abs(log_snr(table, other) - middle) for other in (stop - 1, stop + 1) if other > 0)


def test_a_schedule_that_ends_early_in_the_signal_to_noise_ratio_is_used_up_to_its_ends() -> None:
    """Little noise at T, much at 1: the stretches are those of the part that there is."""
    betas = torch.full((400,), 0.005, dtype=torch.float64)
    betas[0] = 0.2  # λ from 0.69 down to −0.95
    schedule = ab.Schedule.from_betas(betas)
    times = ab.Chain.spaced(schedule, 5, spacing="logsnr").times
    high, low = log_snr(schedule, 1), log_snr(schedule, 400)
    for k, t in enumerate(times[1:-1]):
        assert log_snr(schedule, t) == pytest.approx(low + (high - low) * (k + 0.5) / 4, abs=0.01)


def test_a_schedule_that_ends_in_pure_noise() -> None:
    """ᾱ_T = 0, where λ is −∞: T comes first, and the stops are among the others."""
    schedule = ab.Schedule.from_betas([*[0.05] * 99, 1.0])
    first, *stops, end = ab.Chain.spaced(schedule, 6, spacing="logsnr").times
    low, high = -math.log(18), log_snr(schedule, 1)
    assert (first, end) == (100, 0)
    for k, stop in enumerate(stops):
        middle = low + (high - low) * (k + 0.5) / 5
        assert stop == min(range(1, 100), key=lambda t, middle=middle: abs(log_snr(schedule, t) - middle))


@pytest.mark.parametrize("betas", [[1e-6] * 1000, [0.99999] + [0.01] * 999], ids=["all data", "all noise"])
def test_a_schedule_without_any_of_the_levels_is_walked_evenly(betas: list[float]) -> None:
    schedule = ab.Schedule.from_betas(betas)
    assert ab.Chain.spaced(schedule, 10, "logsnr").times == ab.Chain.spaced(schedule, 10, "uniform").times
