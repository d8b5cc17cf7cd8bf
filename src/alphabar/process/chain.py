"""Which times are visited, and the coefficients of each hop.

A chain is a strictly decreasing tuple of times that ends in 0. The full chain T, T−1, …, 1, 0 is the paper's; any
sub-chain is a legal process with the same marginals, so "respacing" needs no other machinery than choosing times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.tensors import Coef
from alphabar.process.equations import beta, beta_tilde
from alphabar.process.schedules.base import Schedule
from alphabar.process.spacings import SPACINGS

__all__ = ["Chain", "Transition"]


class Transition(NamedTuple):
    """One hop t → s with t > s ≥ 0: python numbers when sampling, int64/float64 [B] when training.

    ``var_floor`` is the σ² to use where s = 0, where β̃ = 0 has no logarithm.
    """

    t: int | Tensor
    s: int | Tensor
    abar_t: Coef
    abar_s: Coef
    var_floor: float

    @property
    def landing(self) -> Transition:
        """The hop s → 0: with what a denoiser is asked about x_s, whose x̂_0 and ε̂ do not depend on a hop's end."""
        return self._replace(t=self.s, s=0, abar_t=self.abar_s, abar_s=1.0)

    def rows(self, chosen: Tensor) -> Transition:
        """The hops of the images that the mask ``chosen``, bool [B], picks from a batch of hops."""
        t, s, abar_t, abar_s, floor = self
        assert isinstance(t, Tensor) and isinstance(s, Tensor)
        assert isinstance(abar_t, Tensor) and isinstance(abar_s, Tensor)
        return Transition(t[chosen], s[chosen], abar_t[chosen], abar_s[chosen], floor)


@dataclass(frozen=True)
class Chain:
    """The times ``T ≥ times[0] > … > times[-1] = 0`` visited on one schedule, iterated as its hops.

    ``var_floor`` is the σ² of the hop that ends at 0. Left out, it is β̃ of the hop before it (β̃_2 on the full chain),
    the convention of Ho et al.'s code, which decides L_0; a one-hop chain has no such hop and takes β.

    Raises:
        ConfigError: if the times are not as above.
    """

    schedule: Schedule
    times: tuple[int, ...]
    var_floor: float | None = None

    def __post_init__(self) -> None:
        """Check the times and fill in ``var_floor``."""
        times = tuple(int(t) for t in self.times)
        if len(times) < 2 or times[-1] != 0:
            raise ConfigError(f"chain: times {_short(times)} must end in 0 and have at least one time before it")
        if any(t <= s for t, s in itertools.pairwise(times)):
            raise ConfigError(f"chain: times {_short(times)} must decrease strictly")
        if times[0] > self.schedule.T:
            raise ConfigError(f"chain: time {times[0]} is above the schedule's T = {self.schedule.T}")
        object.__setattr__(self, "times", times)
        abar = self.schedule.alpha_bar
        if self.var_floor is None:
            last = float(abar[times[-2]])
            floor = beta_tilde(float(abar[times[-3]]), last) if len(times) > 2 else beta(last, 1.0)
            object.__setattr__(self, "var_floor", float(floor))
        elif self.var_floor <= 0:
            raise ConfigError(f"chain: var_floor is {self.var_floor:g}; a variance must be above 0")

    @staticmethod
    def full(schedule: Schedule) -> Chain:
        """T, T−1, …, 1, 0: the paper's chain."""
        return Chain(schedule, tuple(range(schedule.T, -1, -1)))

    @staticmethod
    def spaced(schedule: Schedule, steps: int, spacing: str = "uniform") -> Chain:
        """A chain of exactly ``steps`` hops, 1 ≤ steps ≤ T, with one of the ``SPACINGS``.

        Raises:
            ConfigError: if ``steps`` is out of range or the spacing unknown.
        """
        if not 1 <= steps <= schedule.T:
            raise ConfigError(f"steps: got {steps}, need 1 … {schedule.T}, the number of steps of the schedule")
        return Chain(schedule, SPACINGS.named(spacing, "chain.spacing")(schedule, steps))

    @property
    def _floor(self) -> float:
        assert self.var_floor is not None
        return self.var_floor

    def __len__(self) -> int:
        """The number of hops."""
        return len(self.times) - 1

    def __iter__(self) -> Iterator[Transition]:
        """The hops in sampling order, as python numbers."""
        abar = self.schedule.alpha_bar
        for t, s in itertools.pairwise(self.times):
            yield Transition(t, s, float(abar[t]), float(abar[s]), self._floor)

    def at(self, t: Tensor) -> Transition:
        """The hops that start at the times ``t`` (int64 [B], each a time of this chain above 0), one per image.

        Raises:
            ConfigError: if a time is not on the chain.
        """
        rising = torch.tensor(self.times[::-1], device=t.device)
        place = torch.searchsorted(rising, t.contiguous()).clamp(1, len(self.times) - 1)
        if (rising[place] != t).any():
            wrong = t[rising[place] != t][0]
            raise ConfigError(f"chain: time {int(wrong)} is not one of {_short(self.times[:-1])}")
        s = rising[place - 1]
        abar = self.schedule.alpha_bar.to(t.device)
        return Transition(t, s, abar[t], abar[s], self._floor)


def _short(times: tuple[int, ...]) -> str:
    return str(times) if len(times) <= 8 else f"({', '.join(map(str, times[:3]))}, …, {times[-2]}, {times[-1]})"
