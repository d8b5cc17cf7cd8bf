"""Schedules given by β_t: the five of Ho et al. (2020) and tables of one's own.

The paper's ends, β_1 = 1e-4 and β_T = 0.02, belong to T = 1000. For another T they are multiplied by 1000/T, so that
ᾱ_T stays where it was, unless both ends are given. A β scaled beyond 0.999 (T ≤ 20) is held there, since β < 1.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError
from alphabar.process.schedules.base import Schedule, finish

__all__ = ["JSD", "Constant", "FromAlphaBar", "FromBetas", "Linear", "Quadratic", "Steps", "Warmup10", "Warmup50"]

Steps = Annotated[int, Field(ge=1, le=100_000)]
Beta = Annotated[float, Field(gt=0, lt=1)]


def _ends(T: int, beta_1: float | None, beta_T: float | None) -> tuple[float, float]:
    """The two ends of a β schedule, the missing ones scaled from T = 1000."""
    first = beta_1 if beta_1 is not None else min(1e-4 * 1000 / T, 0.999)
    last = beta_T if beta_T is not None else min(0.02 * 1000 / T, 0.999)
    if first > last:
        raise ConfigError(f"schedule: beta_1 = {first:g} is above beta_T = {last:g}; noise must grow with t")
    return first, last


def _line(first: float, last: float, n: int) -> Tensor:
    return torch.linspace(first, last, n, dtype=torch.float64)


@choice
class Linear:
    """β_t grows linearly from β_1 to β_T (Ho et al. §4). ``T`` steps; ends in (0, 1)."""

    T: Steps = 1000
    beta_1: Beta | None = None
    beta_T: Beta | None = None

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        return finish(Schedule.from_betas(_line(*_ends(self.T, self.beta_1, self.beta_T), self.T)), self)


@choice
class Quadratic:
    """√β_t grows linearly from √β_1 to √β_T. ``T`` steps; ends in (0, 1)."""

    T: Steps = 1000
    beta_1: Beta | None = None
    beta_T: Beta | None = None

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        first, last = _ends(self.T, self.beta_1, self.beta_T)
        # squaring its root may round above the last one
        return finish(Schedule.from_betas(_line(first**0.5, last**0.5, self.T).square().clamp(max=last)), self)


@choice
class Constant:
    """β_t = β_T for every t (Ho et al.'s ``const``): 0.02·1000/T unless ``beta`` is given."""

    T: Steps = 1000
    beta: Beta | None = None

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        _, last = _ends(self.T, 0.0, self.beta)
        return finish(Schedule.from_betas(_line(last, last, self.T)), self)


def _warm_up(T: int, beta_1: float | None, beta_T: float | None, fraction: float) -> Schedule:
    first, last = _ends(T, beta_1, beta_T)
    betas = _line(last, last, T)
    rising = int(T * fraction)
    betas[:rising] = _line(first, last, rising)
    return Schedule.from_betas(betas)


@choice
class Warmup10:
    """β_t rises linearly over the first tenth of the steps and then stays at β_T (Ho et al.'s ``warmup10``)."""

    T: Steps = 1000
    beta_1: Beta | None = None
    beta_T: Beta | None = None

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        return finish(_warm_up(self.T, self.beta_1, self.beta_T, 0.1), self)


@choice
class Warmup50:
    """β_t rises linearly over the first half of the steps and then stays at β_T (Ho et al.'s ``warmup50``)."""

    T: Steps = 1000
    beta_1: Beta | None = None
    beta_T: Beta | None = None

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        return finish(_warm_up(self.T, self.beta_1, self.beta_T, 0.5), self)


@choice
class JSD:
    """β_t = 1/(T − t + 1): 1/T … 1, which removes the same share of the signal at every step; ᾱ_T = 0.

    With ᾱ_T = 0 the network cannot predict ε at t = T; a ``Denoiser`` asks for another prediction then.
    """

    T: Steps = 1000

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T: exactly 1 − t/T."""
        steps = torch.arange(self.T, -1, -1, dtype=torch.float64)
        return finish(Schedule(steps / self.T), self)


@choice
class FromBetas:
    """A table of one's own: ``values`` are β_1 … β_T, each in (0, 1]."""

    values: tuple[float, ...]

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.values)

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        return finish(Schedule.from_betas(self.values), self)


@choice
class FromAlphaBar:
    """A table of one's own: ``values`` are ᾱ_0 … ᾱ_T, starting at 1 and never increasing."""

    values: tuple[float, ...]

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.values) - (self.values[:1] == (1.0,))

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        return finish(Schedule.from_alpha_bar(self.values), self)
