"""L_simple with another weight at each noise level, the same whatever the network predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.tensors import mean_per_image, scale
from alphabar.model.denoiser import Estimate
from alphabar.process.chain import Transition

__all__ = ["weighted_error"]


def weighted_error(est: Estimate, x0: Tensor, eps: Tensor, tr: Transition, weight: Tensor) -> Tensor:
    """``weight`` (float64 [B]) · ‖x_0 − x̂_0‖², mean over dimensions, with the unclipped x̂_0: [B].

    The error is taken where the network makes it, in its own output, and multiplied by how much an error there moves
    x̂_0. So nothing is divided by a small ᾱ_t on the way and multiplied by it again.
    """
    prediction = est.denoiser.prediction
    # x̂_0 is linear in the output: its slope is what the output 1 gives at x_t = 0, where the coefficients are
    zero = torch.zeros((len(x0), 1), dtype=torch.float64, device=weight.device)
    slope = prediction.x0(torch.ones_like(zero), zero, tr)[:, 0]
    error = (prediction.target(x0, eps, tr) - est.out).square()
    return mean_per_image(scale(error, weight * slope.square()))
