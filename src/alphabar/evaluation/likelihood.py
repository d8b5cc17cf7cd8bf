"""The variational bound on −log p(x_0), term by term: Eq. 5 evaluated as in the paper's tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.rng import Noise
from alphabar.base.tensors import Coef, mean_per_image, sum_per_image
from alphabar.evaluation.hops import HopPlan, draw_hops, spread_of_sum
from alphabar.model.denoiser import Denoise, Denoiser
from alphabar.process import equations as eq
from alphabar.process.bound import hop_nats
from alphabar.process.chain import Chain, Transition

__all__ = ["Bound", "hop_term", "mean_and_error", "variational_bound"]


@dataclass(frozen=True)
class Bound:
    """Eq. 5 of B images, every term in nats per image (float64).

    Attributes:
        prior_nats: L_T, [B].
        terms_nats: L_{t−1} for t = T … 2, [B, T−1]; of an estimate only the hops drawn, [B, K], less what a
            :class:`~.hops.HopPlan` subtracts for long noise.
        decoder_nats: L_0, [B].
        mse: per-pixel mean of (x_0 − x̂_0)² at each of these hops and at the last, [B, T−1+1] (distortion, §4.3).
        times: the t of each column of ``terms_nats``, int64 [B, T−1].
        weights: how many hops each term stands for, float64 [B, T−1]: 1, or 1/(K·probability) in an estimate.
        draw_variance: the variance that drawing hops adds to ``nats``, float64 [B], estimated from the draws (a little
            too high rather than too low; NaN with a single one); 0 where every hop was visited.
        dims: C·H·W.
    """

    prior_nats: Tensor
    terms_nats: Tensor
    decoder_nats: Tensor
    mse: Tensor
    times: Tensor
    weights: Tensor
    draw_variance: Tensor
    dims: int

    @property
    def nats(self) -> Tensor:
        """L = L_T + Σ L_{t−1} + L_0, an upper bound on −ln p(x_0): [B]."""
        return self.prior_nats + (self.terms_nats * self.weights).sum(1) + self.decoder_nats

    @property
    def bits_per_dim(self) -> Tensor:
        """L in bits per dimension: [B]."""
        return self._per_dim(self.nats)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean of ``bits_per_dim`` over the images (NaN for a single one)."""
        return mean_and_error(self.bits_per_dim)[1]

    @property
    def draw_error(self) -> float:
        """How far the mean of ``bits_per_dim`` is from that of all hops on the same images: one standard error.

        It shrinks with the hops per image; ``standard_error`` also holds the spread between images, which does not.
        """
        return float(self._per_dim(self.draw_variance.sum().sqrt() / len(self.draw_variance)))

    @property
    def rate(self) -> Tensor:
        """L_T + Σ L_{t−1} in bits per dimension, the paper's rate (§4.3): [B]."""
        return self._per_dim(self.nats - self.decoder_nats)

    @property
    def distortion(self) -> Tensor:
        """L_0 in bits per dimension, the paper's distortion (§4.3): [B]."""
        return self._per_dim(self.decoder_nats)

    def _per_dim(self, nats: Tensor) -> Tensor:
        return nats / (self.dims * math.log(2))

    @staticmethod
    def cat(parts: list[Bound]) -> Bound:
        """The bounds of several batches as one."""
        return Bound(
            **{name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()},
            dims=parts[0].dims,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every field but ``dims`` under its name, a row per image."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "dims"}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of independent values [N] and its standard error (NaN for a single value)."""
    error = values.std(unbiased=True) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(math.nan)
    return float(values.mean()), float(error)


def hop_term(denoise: Denoise, x0: Tensor, tr: Transition, eps: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
    """One term of Eq. 5 at x_t of Eq. 4: its nats and the per-pixel mean of (x_0 − x̂_0)², float64 [B] each."""
    x_t = eq.q_sample(x0, eps, tr.abar_t)
    est = denoise(x_t, tr, **cond)
    error = mean_per_image((x0 - est.x0).double().square())
    return hop_nats(x0, x_t, est.x0, est.log_var, tr).cpu(), error.cpu()


@torch.no_grad()
def variational_bound(
    denoise: Denoise, x0: Tensor, chain: Chain, rng: Noise, *, hops: int | HopPlan | None = None, **cond: Any
) -> Bound:
    """Eqs. 3 and 5.  L = L_T + Σ L_{t−1} + L_0 ≥ −ln p_θ(x_0), every term in nats per image.

    ``x0`` [B, C, H, W] lies in [−1, 1] on the 256 levels 2k/255 − 1. Full: one network call per hop of ``chain``.
    With ``hops`` = K: an unbiased estimate from K + 1 calls; the hops above the last are cut into K strata as equal as
    possible, and every image draws its own hop in each. A :class:`HopPlan` draws important hops more often instead,
    and L_0 more than once. The mean uses the clipped x̂_0, as the paper's evaluation does. ``rng`` draws one ε per
    call; labels go in ``cond``.

    Raises:
        ConfigError: if ``hops`` is not 1 … len(chain) − 1, a value is not finite, or a value lies outside ±``clip`` of
            the model. A model without ``clip`` is one of data without a range: its L_T and L_{t−1} are exact for any
            x_0, and its L_0 puts what lies beyond ±1 into the open end bins.
    """
    clip = denoise.clip if isinstance(denoise, Denoiser) else None
    largest = float(x0.abs().max()) if len(x0) else 0.0
    if not math.isfinite(largest) or (clip is not None and largest > clip.limit + 1e-6):
        raise ConfigError(
            f"x0: values reach {largest:.4g}; this model and Eq. 13 need 8-bit pixels scaled to [-1, 1] "
            "(to_model_range does that)"
        )
    transitions = list(chain)
    batch, last = len(x0), transitions[-1]
    if hops is None:
        times = torch.tensor(chain.times[:-2]).expand(batch, -1)
        weights = torch.ones((batch, len(chain) - 1), dtype=torch.float64)
        slopes, decoder_slope, decoder_draws = torch.zeros_like(weights), 0.0, 1
        visited = transitions[:-1]
    else:
        plan = hops if isinstance(hops, HopPlan) else HopPlan.uniform(chain, hops)
        times, weights, slopes = draw_hops(plan, chain, batch, rng)
        decoder_slope, decoder_draws = plan.decoder_slope, plan.decoder_draws
        visited = [chain.at(column) for column in times.T]

    def term(tr: Transition, slope: Coef) -> tuple[Tensor, Tensor]:
        eps = rng.randn_like(x0)
        nats, error = hop_term(denoise, x0, tr, eps, **cond)
        return nats - slope * (sum_per_image(eps.square()).cpu() - x0[0].numel()), error

    terms, errors = _columns([term(tr, slope) for tr, slope in zip(visited, slopes.T, strict=True)], batch)
    decoding, last_errors = _columns([term(last, decoder_slope) for _ in range(decoder_draws)], batch)
    variance = torch.zeros(batch, dtype=torch.float64) if hops is None else spread_of_sum(terms * weights)
    if decoder_draws > 1:
        variance = variance + spread_of_sum(decoding / decoder_draws)
    return Bound(
        prior_nats=sum_per_image(eq.prior_kl(x0.double(), transitions[0].abar_t)).cpu(),
        terms_nats=terms,
        decoder_nats=decoding.mean(1),
        mse=torch.cat([errors, last_errors.mean(1, keepdim=True)], dim=1),
        times=times,
        weights=weights,
        draw_variance=variance,
        dims=x0[0].numel(),
    )


def _columns(calls: list[tuple[Tensor, Tensor]], batch: int) -> tuple[Tensor, Tensor]:
    """The nats and the errors of several calls side by side, float64 [B, calls] each."""
    if not calls:
        empty = torch.zeros((batch, 0), dtype=torch.float64)
        return empty, empty
    nats, errors = zip(*calls, strict=True)
    return torch.stack(nats, dim=1), torch.stack(errors, dim=1)
