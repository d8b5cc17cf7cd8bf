"""Which hops an estimate of the bound visits: important ones more often, every one with a known probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.rng import Noise, uniforms
from alphabar.process.chain import Chain

__all__ = ["Draws", "HopPlan", "draw_hops", "spread_of_sum"]


@dataclass(frozen=True, eq=False)
class HopPlan:
    """How often an estimate visits each hop of a chain.

    Attributes:
        probability: float64 [n], of each hop above the last (t = T … 2 on the full chain); all positive, sum 1.
        hops: K, how many of them every image draws.
        decoder_draws: how often L_0 is drawn for every image.
        slopes: float64 [n], how many nats the term of a hop grows per unit of ‖ε‖² on average; None for 0.
        decoder_slope: the same of L_0.

    The expectation of ‖ε‖² is known, D: what a term owes to noise that happens to be long is subtracted, slope ·
    (‖ε‖² − D), which changes no expectation and halves the variance where t is small (a control variate).
    """

    probability: Tensor
    hops: int
    decoder_draws: int = 1
    slopes: Tensor | None = None
    decoder_slope: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        p = self.probability
        if p.ndim != 1 or not torch.isfinite(p).all() or (p <= 0).any() or abs(float(p.sum()) - 1) > 1e-9:
            raise ConfigError("hop plan: probabilities must be positive and sum to 1, one per hop above the last")
        if self.hops < 1 or self.decoder_draws < 1:
            raise ConfigError(
                f"hop plan: got {self.hops} hops and {self.decoder_draws} draws of L_0, need at least 1 of each"
            )

    def facts(self) -> list[float]:
        """Every number of the plan."""
        slopes = [] if self.slopes is None else self.slopes.tolist()
        return [self.hops, self.decoder_draws, self.decoder_slope, *self.probability.tolist(), *slopes]

    @staticmethod
    def uniform(chain: Chain, hops: int) -> HopPlan:
        """Every hop of ``chain`` above its last equally often.

        Raises:
            ConfigError: if ``hops`` is not 1 … len(chain) − 1; that many visit each hop once.
        """
        n = len(chain) - 1
        if not 1 <= hops <= n:
            raise ConfigError(f"hops: got {hops}, need 1 … {n}, the hops of the chain above its last")
        return HopPlan(torch.full((n,), 1 / n, dtype=torch.float64), hops)


class Draws(NamedTuple):
    """K hops per image: their ``times`` int64 [B, K], how many hops each stands for and its slope, float64 [B, K]."""

    times: Tensor
    weights: Tensor
    slopes: Tensor


def draw_hops(plan: HopPlan, chain: Chain, batch: int, rng: Noise) -> Draws:
    """K hops for each of ``batch`` images.

    The cumulative probability is cut into K equal strata and every image draws one hop in each (stratified importance
    sampling): Σ weight · L_{t−1} is unbiased for the sum over all hops.
    """
    k = plan.hops
    places = (torch.arange(k) + uniforms(rng, [batch, k])) / k
    chosen = torch.searchsorted(plan.probability.cumsum(0), places, right=True).clamp(max=len(plan.probability) - 1)
    slopes = torch.zeros_like(plan.probability) if plan.slopes is None else plan.slopes
    return Draws(torch.tensor(chain.times[:-2])[chosen], 1 / (k * plan.probability[chosen]), slopes[chosen])


def spread_of_sum(draws: Tensor) -> Tensor:
    """The variance of Σ_j y_j of K draws float64 [B, K], one from each of K neighbouring strata: [B].

    Neighbours are compared in pairs (and a triple where K is odd), which counts the difference of their strata as
    noise: the estimate is too high rather than too low. A single draw tells nothing: NaN.
    """
    if draws.shape[1] < 2:
        return torch.full((len(draws),), torch.nan, dtype=torch.float64)
    odd = 3 * (draws.shape[1] % 2)
    even = draws.shape[1] - odd
    variance: Tensor = (draws[:, :even:2] - draws[:, 1:even:2]).square().sum(1)
    if odd:
        variance = variance + 3 * draws[:, -3:].var(1)
    return variance
