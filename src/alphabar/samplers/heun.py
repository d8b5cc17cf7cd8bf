"""Heun's method on the probability flow (Karras et al. 2022, arXiv 2206.00364, Algorithm 1)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.model.denoiser import Denoise
from alphabar.process import equations as eq
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.driver import Step

__all__ = ["Heun"]


@choice
class Heun:
    """Karras et al. (2022), Algorithm 1.  x̃_s = x̃_t + (σ̄_s − σ̄_t)(ε̂_t + ε̂_s)/2 with x̃ = x/√ᾱ, σ̄ = √((1−ᾱ)/ᾱ).

    ε̂_s is asked at x_s by Euler's step, which is that of ``DDIM(eta=0)``. With x̂_0 for ε̂ the same step reads
    x_s = σ_s/σ_t x_t + (α_s − α_t σ_s/σ_t) D, D = (1−w) x̂_0(x_t) + w x̂_0(x_s), w = σ̄_t/(2σ̄_s), which has a meaning
    where ᾱ_t = 0 too. w is held at 1: where σ̄ more than halves in a hop, D would lie beyond the second estimate, at the
    first hop of a cosine schedule a hundredfold.

    Two network calls per hop; the hop that ends at 0 is Euler's, with one.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    needs_variance: ClassVar[bool] = False
    few_steps: ClassVar[str] = "logsnr"
    calls_per_hop: ClassVar[int] = 2

    def init(self, chain: Chain) -> None:
        """No state."""

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: None, rng: Noise) -> Step:
        """One update."""
        x0 = denoise(x_t, tr).x0
        euler = eq.flow(x0, x_t, tr.abar_t, tr.abar_s)
        if tr.s == 0:
            return Step(euler, x0, state)
        w = min(1.0, math.exp(float(eq.half_log_snr(tr.abar_s)) - float(eq.half_log_snr(tr.abar_t))) / 2)
        data = x0 + w * (denoise(euler, tr.landing).x0 - x0)
        return Step(eq.flow(data, x_t, tr.abar_t, tr.abar_s), x0, state)
