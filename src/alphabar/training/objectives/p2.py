"""The loss of Choi et al. (2022), which spends the network on what is perceived."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.model.denoiser import Estimate
from alphabar.process.chain import Transition
from alphabar.process.equations import snr
from alphabar.training.objectives.weighting import weighted_error

__all__ = ["P2"]


@choice
class P2:
    """‖ε − ε_θ‖² / (k + SNR_t)^γ (Choi et al. 2022, Eq. 8), mean over dimensions; [B].

    ``gamma`` is γ (0 is L_simple) and ``k`` bounds the weight at high noise. Other predictions are weighted alike.
    """

    teaches_variance: ClassVar[bool] = False
    k: Annotated[float, Field(gt=0)] = 1.0
    gamma: Annotated[float, Field(ge=0)] = 1.0

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image, unreduced over the batch: [B]."""
        ratio = torch.as_tensor(snr(tr.abar_t), dtype=torch.float64)
        return weighted_error(est, x0, eps, tr, ratio / (self.k + ratio) ** self.gamma)
