"""Pseudo linear multi-steps on manifolds (PNDM; Liu et al. 2022, arXiv 2202.09778)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.model.denoiser import Denoise
from alphabar.process import equations as eq
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.driver import Step

__all__ = ["PLMS"]

# Adams and Bashforth's weights of the newest ε̂, the one before, …, for 1 to 4 of them
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@choice
class PLMS:
    """Liu et al. (2022), equation 12.  DDIM's step with ε′ = (55 ε̂_t − 59 ε̂_{t+δ} + 37 ε̂_{t+2δ} − 9 ε̂_{t+3δ})/24.

    The first three hops have fewer ε̂ and take the rule of their number, 1, (3, −1)/2 and (23, −16, 5)/12, so that every
    hop costs one network call; the first step is that of ``DDIM(eta=0)``.

    The weights are those of equal steps in t, while DDIM's step integrates over √((1−ᾱ)/ᾱ): the order is 2, not 4, and
    less where that root is not smooth in t, as β_t ∝ t makes it near t = 0.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    needs_variance: ClassVar[bool] = False
    few_steps: ClassVar[str] = "uniform"
    calls_per_hop: ClassVar[int] = 1

    def init(self, chain: Chain) -> tuple[Tensor, ...]:
        """No ε̂ yet; later the last three at most, the newest first."""
        return ()

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: tuple[Tensor, ...], rng: Noise) -> Step:
        """One update."""
        est = denoise(x_t, tr)
        known = (est.eps, *state)
        if not state:
            # the pair (x̂_0, ε̂) rather than x_t and ε̂: ᾱ_t may be 0 here
            return Step(eq.q_sample(est.x0, est.eps, tr.abar_s), est.x0, known)
        eps = sum((weight * one for weight, one in zip(WEIGHTS[len(state)], known, strict=True)), start=0 * est.eps)
        return Step(eq.transfer(x_t, eps, tr.abar_t, tr.abar_s), est.x0, known[:3])
