"""The stochastic DPM-Solver++ with two estimates (Lu et al. 2022, arXiv 2211.01095, SDE-DPM-Solver++(2M))."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.base.tensors import scale, sqrt
from alphabar.model.denoiser import Denoise
from alphabar.process import equations as eq
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.dpmpp_2m import Previous, extrapolate
from alphabar.samplers.driver import Step

__all__ = ["SDEDPMSolverPP2M"]


@choice
class SDEDPMSolverPP2M:
    """Lu et al. (2022), SDE-DPM-Solver++(2M).  x_s = σ_s/σ_t e^(−h) x_t + α_s (1−e^(−2h)) D + σ_s √(1−e^(−2h)) z.

    α = √ᾱ, σ = √(1−ᾱ), h = λ_s − λ_t. In terms of ᾱ these are Eq. 7's coefficients and β̃: a draw from
    q(x_s | x_t, D), that is ancestral sampling with σ² = β̃ whose x̂_0 is replaced by the D of ``DPMSolverPP2M``.
    z = 0 on the hop that ends at 0. One network call per hop.

    The first hop is that of ``DDIM(eta=0)``, which has x_T for its noise: where ᾱ_T is near 0 a draw from
    q(x_s | x_t, D) would replace all of x_T, and a network's D, made from x_T, would fit what it is added to no longer.

    In distribution the order is 2, though x̂_0 is no smooth function of λ here: it is a martingale of the reverse
    process, and what its changes within a hop add to x_s is added one hop later, by the extrapolation.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True
    needs_variance: ClassVar[bool] = False
    few_steps: ClassVar[str] = "logsnr"
    calls_per_hop: ClassVar[int] = 1

    def init(self, chain: Chain) -> None:
        """Nothing came before."""

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: Previous | None, rng: Noise) -> Step:
        """One update."""
        x0 = denoise(x_t, tr).x0
        data, here = extrapolate(x0, tr, state)
        if state is None:
            return Step(eq.flow(data, x_t, tr.abar_t, tr.abar_s), x0, here)
        x_s = eq.posterior(data, x_t, tr.abar_t, tr.abar_s)
        if tr.s != 0:
            x_s = x_s + scale(rng.randn_like(x_t), sqrt(eq.beta_tilde(tr.abar_t, tr.abar_s)))
        return Step(x_s, x0, here)
