"""The loss of Hang et al. (2023), which keeps easy noise levels from outweighing the others."""

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

__all__ = ["MinSNR"]


@choice
class MinSNR:
    """min(SNR_t, γ) ‖x_0 − x̂_0‖² (Hang et al. 2023, Eq. 6), mean over dimensions, with the unclipped x̂_0; [B].

    For ε it is min(1, γ/SNR) ‖ε − ε_θ‖²: L_simple, less at low noise. ``gamma`` is γ; ∞ would be L_simple.
    """

    teaches_variance: ClassVar[bool] = False
    gamma: Annotated[float, Field(gt=0)] = 5.0

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image, unreduced over the batch: [B]."""
        ratio = torch.as_tensor(snr(tr.abar_t), dtype=torch.float64)
        return weighted_error(est, x0, eps, tr, ratio.clamp(max=self.gamma))
