"""Progressive coding (§4.3): how many bits have been received at each time, and how far x̂_0 still is from the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.evaluation.likelihood import Bound

__all__ = ["RateDistortion", "rate_distortion"]


@dataclass(frozen=True)
class RateDistortion:
    """Means over images at every time, in the order of the reverse process.

    Attributes:
        times: T … 1, int64 [T].
        rate: bits per dimension received until x_t is known: L_T plus the terms of all hops above t, float64 [T].
        distortion: root mean squared error of x̂_0 at t on the 0–255 scale, float64 [T].
    """

    times: Tensor
    rate: Tensor
    distortion: Tensor


def rate_distortion(bound: Bound) -> RateDistortion:
    """Rate_t = L_T + Σ_{u>t} L_{u−1} and distortion_t = 127.5 √(mean (x_0 − x̂_0)²) of a set of images.

    The last rate, at t = 1, is the mean of ``bound.rate``: L_0 is the distortion's share of the bound.

    Raises:
        ConfigError: if ``bound`` is an estimate or of a chain that leaves times out.
    """
    T = bound.mse.shape[1]
    times = torch.arange(T, 0, -1)
    if bound.times.shape[1] != T - 1 or (bound.times != times[:-1]).any():
        raise ConfigError("bound: has not every time T … 1; rate and distortion need the bound of the full chain")
    nats = torch.cat([bound.prior_nats[:, None], bound.terms_nats], dim=1).mean(0)
    return RateDistortion(
        times,
        nats.cumsum(0) / (bound.dims * math.log(2)),
        127.5 * bound.mse.mean(0).sqrt(),
    )
