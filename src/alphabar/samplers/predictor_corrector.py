"""Predictor and corrector (Song et al. 2021, arXiv 2011.13456): sampling as score-based Langevin dynamics."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.base.tensors import scale, sum_per_image
from alphabar.model.denoiser import Denoise
from alphabar.process.chain import Chain, Transition
from alphabar.process.schedules.base import Schedule
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.driver import Step

__all__ = ["PredictorCorrector", "langevin"]


def langevin(score: Tensor, x: Tensor, z: Tensor, snr: float, alpha: float) -> Tensor:
    """Song et al. (2021), Algorithm 5.  x ← x + δ g + √(2δ) z with g = ∇ ln p(x) and δ = 2α (r ‖z‖/‖g‖)².

    ``score``, ``x``, ``z`` [B, C, H, W]. Norms are of one image each, not means over the batch, so that an image does
    not depend on its neighbours. An image whose score is 0 everywhere has no δ and stays.
    """
    length, noise = sum_per_image(score.square()), sum_per_image(z.square())
    step = torch.where(length > 0, 2 * alpha * snr**2 * noise / length, 0.0)
    return x + scale(score, step) + scale(z, (2 * step).sqrt())


@choice
class PredictorCorrector:
    """Song et al. (2021), Algorithms 3 and 5.  x_s ~ p_θ(x_s | x_t), then M times x_s ← x_s + δ ∇ ln p(x_s) + √(2δ) z.

    The predictor is ``Ancestral``, the corrector :func:`langevin`. ``snr`` is its r (0.16 is the authors' value for
    CIFAR-10); ``corrector_steps`` is M, at every time above 0; α is that of the single step s − 1 → s on every chain.
    Each Langevin step costs a network call.

    They move x_s towards q(x_s), whatever the predictor made of it, up to an error of their own, which more hops do not
    make smaller (a variance c settles at c/(1 − δ/(2c))): the order is 0, where the predictor alone has 1.
    """

    snr: Annotated[float, Field(gt=0, le=1)] = 0.16
    corrector_steps: Annotated[int, Field(ge=1, le=1000)] = 1
    order: ClassVar[int] = 0
    stochastic: ClassVar[bool] = True
    needs_variance: ClassVar[bool] = True
    few_steps: ClassVar[str] = "uniform"

    @property
    def calls_per_hop(self) -> int:
        """One of the predictor and one for each Langevin step."""
        return 1 + self.corrector_steps

    def init(self, chain: Chain) -> Schedule:
        """The schedule, for its α."""
        return chain.schedule

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: Schedule, rng: Noise) -> Step:
        """One draw from p_θ(x_s | x_t), then ``corrector_steps`` of Langevin dynamics at s."""
        x, x0, _ = Ancestral().step(denoise, x_t, tr, None, rng)
        if tr.s == 0:
            return Step(x, x0, state)
        alpha = float(state.alpha_bar[tr.s] / state.alpha_bar[tr.s - 1])
        for _ in range(self.corrector_steps):
            x = langevin(denoise(x, tr.landing).score, x, rng.randn_like(x), self.snr, alpha)
        return Step(x, x0, state)
