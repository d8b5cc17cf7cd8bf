"""The loss of Nichol and Dhariwal (2021), which trains a learned variance beside L_simple."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.model.denoiser import Estimate
from alphabar.process.bound import hop_nats
from alphabar.process.chain import Transition
from alphabar.training.objectives.simple import Simple

__all__ = ["Hybrid"]


@choice
class Hybrid:
    """L_hybrid = L_simple + λ T L_{t−1}, L_{t−1} in bits per dimension with the mean held fixed (their Eq. 16); [B].

    ``weight`` is λ. Only the variance learns from the second term.
    """

    teaches_variance: ClassVar[bool] = True
    weight: Annotated[float, Field(ge=0)] = 0.001

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image, unreduced over the batch: [B]."""
        bits_per_dim = hop_nats(x0, est.x_t, est.x0_raw.detach(), est.log_var, tr) / (x0[0].numel() * math.log(2))
        factor = self.weight * est.denoiser.schedule.T
        return Simple()(est, x0, eps, tr) + (factor * bits_per_dim).to(x0.dtype)
