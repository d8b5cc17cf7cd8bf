"""The variational bound on −log p(x_0), term by term: Eq. 5 evaluated as in the paper's tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.rng import Noise, uniforms
from alphabar.base.tensors import mean_per_image, sum_per_image
from alphabar.model.denoiser import Denoise, Denoiser
from alphabar.process import equations as eq
from alphabar.process.bound import hop_nats
from alphabar.process.chain import Chain, Transition

__all__ = ["Bound", "mean_and_error", "variational_bound"]


@dataclass(frozen=True)
class Bound:
    """Eq. 5 of B images, every term in nats per image (float64).

    Attributes:
        prior_nats: L_T, [B].
        terms_nats: L_{t−1} for t = T … 2, [B, T−1]; of an estimate only the hops drawn, [B, K].
        decoder_nats: L_0, [B].
        mse: per-pixel mean of (x_0 − x̂_0)² at each of these hops and at the last, [B, T−1+1] (distortion, §4.3).
        times: the t of each column of ``terms_nats``, int64 [B, T−1].
        weights: how many hops each column stands for, float64 [T−1]: 1, or the size of its stratum in an estimate.
        dims: C·H·W.
    """

    prior_nats: Tensor
    terms_nats: Tensor
    decoder_nats: Tensor
    mse: Tensor
    times: Tensor
    weights: Tensor
    dims: int

    @property
    def nats(self) -> Tensor:
        """L = L_T + Σ L_{t−1} + L_0, an upper bound on −ln p(x_0): [B]."""
        return self.prior_nats + self.terms_nats @ self.weights + self.decoder_nats

    @property
    def bits_per_dim(self) -> Tensor:
        """L in bits per dimension: [B]."""
        return self._per_dim(self.nats)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean of ``bits_per_dim`` over the images (NaN for a single one)."""
        return mean_and_error(self.bits_per_dim)[1]

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
        first = parts[0]
        columns = ("prior_nats", "terms_nats", "decoder_nats", "mse", "times")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in columns}
        return Bound(**joined, weights=first.weights, dims=first.dims)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of independent values [N] and its standard error (NaN for a single value)."""
    error = values.std(unbiased=True) / len(values) ** 0.5 if len(values) > 1 else torch.tensor(math.nan)
    return float(values.mean()), float(error)


@torch.no_grad()
def variational_bound(
    denoise: Denoise, x0: Tensor, chain: Chain, rng: Noise, *, hops: int | None = None, **cond: Any
) -> Bound:
    """Eqs. 3 and 5.  L = L_T + Σ L_{t−1} + L_0 ≥ −ln p_θ(x_0), every term in nats per image.

    ``x0`` [B, C, H, W] lies in [−1, 1] on the 256 levels 2k/255 − 1. Full: one network call per hop of ``chain``.
    With ``hops`` = K: an unbiased estimate from K + 1 calls; the hops above the last are cut into K strata as equal as
    possible, and every image draws its own hop in each. The mean uses the clipped x̂_0, as the paper's evaluation
    does. ``rng`` draws one ε per call; labels go in ``cond``.

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
    batch = len(x0)
    terms: list[Tensor] = []
    errors: list[Tensor] = []

    def term(tr: Transition) -> Tensor:
        x_t = eq.q_sample(x0, rng.randn_like(x0), tr.abar_t)
        est = denoise(x_t, tr, **cond)
        errors.append(mean_per_image((x0 - est.x0).double().square()).cpu())
        return hop_nats(x0, x_t, est.x0, est.log_var, tr).cpu()

    if hops is None:
        times = torch.tensor(chain.times[:-2]).expand(batch, -1)
        weights = torch.ones(len(chain) - 1, dtype=torch.float64)
        terms = [term(tr) for tr in transitions[:-1]]
    else:
        times, weights = _strata(chain, hops, batch, rng)
        terms = [term(chain.at(column)) for column in times.T]
    decoder_nats = term(transitions[-1])
    return Bound(
        prior_nats=sum_per_image(eq.prior_kl(x0.double(), transitions[0].abar_t)).cpu(),
        terms_nats=torch.stack(terms, dim=1) if terms else torch.zeros((batch, 0), dtype=torch.float64),
        decoder_nats=decoder_nats,
        mse=torch.stack(errors, dim=1),
        times=times,
        weights=weights,
        dims=x0[0].numel(),
    )


def _strata(chain: Chain, hops: int, batch: int, rng: Noise) -> tuple[Tensor, Tensor]:
    """One time per image and stratum, int64 [B, K], and the sizes of the strata, float64 [K]."""
    n = len(chain) - 1
    if not 1 <= hops <= n:
        raise ConfigError(f"hops: got {hops}, need 1 … {n}, the hops of the chain above its last")
    edges = torch.arange(hops + 1) * n // hops
    sizes = edges.diff()
    place = edges[:-1] + (uniforms(rng, [batch, hops]) * sizes).long().clamp(max=sizes - 1)
    return torch.tensor(chain.times)[place], sizes.double()
