"""The cosine schedule of Nichol and Dhariwal (2021)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from alphabar.base.choice import choice
from alphabar.process.schedules.base import Schedule, finish
from alphabar.process.schedules.polynomial import Steps

__all__ = ["Cosine"]


@choice
class Cosine:
    """ᾱ_t = f(t)/f(0), f(t) = cos²(π/2 · (t/T + s)/(1 + s)), with every β_t ≤ ``beta_max`` (Eq. 17 of that paper)."""

    T: Steps = 1000
    s: Annotated[float, Field(ge=0, le=1)] = 0.008
    beta_max: Annotated[float, Field(gt=0, lt=1)] = 0.999

    def build(self) -> Schedule:
        """The table ᾱ_0 … ᾱ_T."""
        u = torch.arange(self.T + 1, dtype=torch.float64) / self.T
        f = torch.cos((u + self.s) / (1 + self.s) * math.pi / 2).square()
        betas = (1 - f[1:] / f[:-1]).clamp(max=self.beta_max)
        return finish(Schedule.from_betas(betas), self)
