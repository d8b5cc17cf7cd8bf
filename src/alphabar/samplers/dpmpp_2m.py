"""DPM-Solver++ with two estimates (Lu et al. 2022, arXiv 2211.01095, Algorithm 2)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.model.denoiser import Denoise
from alphabar.process import equations as eq
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.driver import Step

__all__ = ["DPMSolverPP2M", "Previous", "extrapolate"]

# Algorithm 2 takes h_{t→s}/(2 h_previous), which is ½ where hops are equally long in λ. Where they are not, as near
# t = 0 on a chain spaced evenly in t, more than ½ is an extrapolation further ahead than the two estimates are apart.
FURTHEST = 0.5


class Previous(NamedTuple):
    """x̂_0 [B, C, H, W] at the start of the hop before, and λ there."""

    x0: Tensor
    log_snr: float


def extrapolate(x0: Tensor, tr: Transition, previous: Previous | None) -> tuple[Tensor, Previous]:
    """Lu et al. (2022), Algorithm 2 (data term).  D = x̂_0 + w (x̂_0 − x̂_0′), w = min(½, h/(2h′)), h = λ_s − λ_t.

    ``x0`` [B, C, H, W] is x̂_0 at t; x̂_0′ and h′ are those of the hop before. D = x̂_0, which makes the step one of
    order 1, on the first hop, on the hop after ᾱ = 0 (h′ = ∞), and on the hop to t = 0 (h = ∞), whose exact solution
    is x̂_0 at t = 0 and where the extrapolation has no limit. Returns D and what the next hop needs.
    """
    log_snr = float(eq.half_log_snr(tr.abar_t))
    here = Previous(x0, log_snr)
    if previous is None or tr.s == 0:
        return x0, here
    h = float(eq.half_log_snr(tr.abar_s)) - log_snr
    weight = min(FURTHEST, h / (2 * (log_snr - previous.log_snr)))
    return x0 + weight * (x0 - previous.x0), here


@choice
class DPMSolverPP2M:
    """Lu et al. (2022), Algorithm 2.  x_s = σ_s/σ_t x_t + (α_s − α_t σ_s/σ_t) D, D from x̂_0 and the one before.

    DPM-Solver++(2M), for the probability flow; α = √ᾱ, σ = √(1−ᾱ), and D is :func:`extrapolate`'s, of the clipped x̂_0.
    The first step and the last are those of ``DDIM(eta=0)``. One network call per hop.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    needs_variance: ClassVar[bool] = False
    few_steps: ClassVar[str] = "logsnr"
    calls_per_hop: ClassVar[int] = 1

    def init(self, chain: Chain) -> None:
        """Nothing came before."""

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: Previous | None, rng: Noise) -> Step:
        """One update."""
        x0 = denoise(x_t, tr).x0
        data, state = extrapolate(x0, tr, state)
        return Step(eq.flow(data, x_t, tr.abar_t, tr.abar_s), x0, state)
