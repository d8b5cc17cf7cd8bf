"""The variational bound as a loss."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.model.denoiser import Estimate
from alphabar.process.bound import hop_nats
from alphabar.process.chain import Transition

__all__ = ["Bound"]


@choice
class Bound:
    """Eq. 5.  The term L_{t−1} (or L_0) of each image's own hop, by KL with the unclipped mean; nats per image, [B].

    Averaged over uniform t and multiplied by T it estimates L without the constant L_T.
    """

    teaches_variance: ClassVar[bool] = True

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image, unreduced over the batch: float64 [B]."""
        return hop_nats(x0, est.x_t, est.x0_raw, est.log_var, tr)
