"""The sampler of Song, Meng and Ermon (2021)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.base.tensors import scale, sqrt
from alphabar.model.denoiser import Denoise
from alphabar.process.chain import Chain, Transition
from alphabar.process.equations import beta_tilde
from alphabar.samplers.driver import Step

__all__ = ["DDIM"]


@choice
class DDIM:
    """DDIM, Eq. 12.  x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) ε̂ + σ z with σ² = η² β̃.

    ``eta`` = 0 draws no noise and maps x_T to x_0; ``eta`` = 1 is ancestral sampling with σ² = β̃.
    """

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    order: ClassVar[int] = 1
    needs_variance: ClassVar[bool] = False
    few_steps: ClassVar[str] = "uniform"
    calls_per_hop: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn."""
        return self.eta > 0

    def init(self, chain: Chain) -> None:
        """No state."""

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: None, rng: Noise) -> Step:
        """One update; the pair (x̂_0, ε̂) is the clipped one."""
        est = denoise(x_t, tr)
        var = self.eta**2 * beta_tilde(tr.abar_t, tr.abar_s)
        # ᾱ_s + σ² reaches 1 at η = 1 for the largest hops, and rounding may carry it past
        direction = max(1 - float(tr.abar_s) - float(var), 0.0)
        x_s = scale(est.x0, sqrt(tr.abar_s)) + scale(est.eps, sqrt(direction))
        if self.stochastic and tr.s != 0:
            x_s = x_s + scale(rng.randn_like(x_t), sqrt(var))
        return Step(x_s, est.x0, state)
