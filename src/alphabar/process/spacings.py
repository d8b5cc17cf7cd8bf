"""Which times of a schedule a chain of few hops visits. A new spacing is a function and a line in ``SPACINGS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from alphabar.base.registry import Registry
from alphabar.process.schedules.base import Schedule

__all__ = ["SPACINGS", "leading", "logsnr", "quadratic", "trailing", "uniform"]


def uniform(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """``steps`` times spread evenly from T down to 1, then 0."""
    if steps == 1:
        return (schedule.T, 0)
    return (*(1 + _nearest((schedule.T - 1) * k, steps - 1) for k in reversed(range(steps))), 0)


def quadratic(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """``steps`` times from T down to 1 that lie densest near 1 (Song et al. 2021, DDIM, §D.2), then 0."""
    if steps == 1:
        return (schedule.T, 0)
    return _apart((1 + _nearest((schedule.T - 1) * k**2, (steps - 1) ** 2) for k in range(steps)), schedule.T, steps)


def leading(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """The first time of each of ``steps`` equal stretches of ⌊T/steps⌋: starts below T, ends 1, 0."""
    return (*(1 + k * (schedule.T // steps) for k in reversed(range(steps))), 0)


def trailing(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """The last time of each of ``steps`` equal stretches: T, T − T/steps, …, T/steps, 0."""
    return (*(_nearest(schedule.T * k, steps) for k in range(steps, 0, -1)), 0)


def logsnr(schedule: Schedule, steps: int) -> tuple[int, ...]:
    """T, then ``steps`` − 1 times even in λ = ½ ln ᾱ/(1−ᾱ) (Lu et al. 2022, DPM-Solver), then 0.

    They are the middles of equal stretches of λ between −ln(3 steps) and ln(2 steps), or of the part of that which the
    schedule has: with more steps they come nearer to noise and to the data. Chains that are even in t jump over high
    noise levels, where the largest variances of an image are decided, over low ones, where the smallest are, or both.
    On a schedule that has no part of it they are even in t.
    """
    abar = schedule.alpha_bar[1:].flip(0)  # λ rises
    lam = 0.5 * (abar.log() - torch.log1p(-abar))
    low, high = max(lam[0].item(), -math.log(3 * steps)), min(lam[-1].item(), math.log(2 * steps))
    if low >= high:
        return uniform(schedule, steps)
    wanted = torch.tensor([low + (high - low) * (k + 0.5) / (steps - 1) for k in range(steps - 1)], dtype=torch.float64)
    found = torch.searchsorted((lam[1:] + lam[:-1]) / 2, wanted)
    return _apart([*(schedule.T - found).flip(0).tolist(), schedule.T], schedule.T, steps)


def _nearest(a: int, b: int) -> int:
    """a/b to the nearest integer, halves up: python's own rounding to even would visit a time twice."""
    return (2 * a + b) // (2 * b)


def _apart(rising: Iterable[int], T: int, steps: int) -> tuple[int, ...]:
    """The ``steps`` times, falling to 0: moved up until they differ, and down where there is no room below T."""
    times = [0]
    for k, t in enumerate(rising, 1):
        times.append(min(max(t, times[-1] + 1), T - steps + k))
    return tuple(reversed(times))


SPACINGS: Registry[Callable[[Schedule, int], tuple[int, ...]]] = Registry(
    "spacings",
    {"uniform": uniform, "quadratic": quadratic, "leading": leading, "trailing": trailing, "logsnr": logsnr},
)
