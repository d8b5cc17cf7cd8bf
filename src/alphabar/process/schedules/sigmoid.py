"""The sigmoid schedule of Jabri, Fleet and Chen (2022)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError
from alphabar.process.schedules.base import Schedule, finish
from alphabar.process.schedules.polynomial import Steps

__all__ = ["Sigmoid"]


@choice
class Sigmoid:
    """ᾱ_t falls along a sigmoid from ``start`` to ``end`` at temperature ``tau``, every β_t ≤ ``beta_max``.

    ᾱ_t = (S(end) − S(start + (end − start) t/T)) / (S(end) − S(start)) with S(z) = 1/(1 + exp(−z/τ)).
    """

    T: Steps = 1000
    start: float = -3.0
    end: float = 3.0
    tau: Annotated[float, Field(gt=0)] = 1.0
    beta_max: Annotated[float, Field(gt=0, lt=1)] = 0.999

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        if self.end <= self.start:
            raise ConfigError(f"schedule: sigmoid end = {self.end:g} must be above start = {self.start:g}")
        u = torch.arange(self.T + 1, dtype=torch.float64) / self.T
        s = torch.sigmoid((self.start + (self.end - self.start) * u) / self.tau)
        alpha_bar = (s[-1] - s) / (s[-1] - s[0])
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.beta_max)
        return finish(Schedule.from_betas(betas), self)
