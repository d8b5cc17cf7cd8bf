"""A few images tell which hops matter: the plan of an importance-sampled estimate of the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.rng import Noise
from alphabar.base.tensors import sum_per_image
from alphabar.evaluation.hops import HopPlan
from alphabar.evaluation.likelihood import hop_term
from alphabar.model.denoiser import Denoise
from alphabar.process.chain import Chain, Transition

__all__ = ["PILOT_CALLS", "importance_plan"]

GRID = 16
DRAWS = 2
PILOT_CALLS = DRAWS * (GRID + 1)
UNIFORM_SHARE = 0.02


@torch.no_grad()
def importance_plan(denoise: Denoise, x0: Tensor, chain: Chain, calls: int, rng: Noise, **cond: Any) -> HopPlan:
    """The best use of ``calls`` network calls per image, from a pilot on the images ``x0`` [B, C, H, W] in [−1, 1].

    The pilot takes at most ``PILOT_CALLS`` calls per image: two draws of L_{t−1} at up to 16 times, dense near
    t = 0 where the terms are large, and of L_0. A hop is drawn in proportion to √E[L_{t−1}²] (Nichol and Dhariwal
    2021, Eq. 18), interpolated between those times, with a fiftieth spread evenly so that no weight explodes. The
    calls are shared between L_0 and the hops in proportion to the noise each leaves (Neyman allocation), once what
    depends on the length of the noise is subtracted.

    Raises:
        ConfigError: if ``calls`` is below 2.
    """
    n = len(chain) - 1
    if calls < 2:
        raise ConfigError(f"calls: got {calls}, an estimate of the bound needs at least 2 network calls per image")
    hops = list(chain)
    from_data = np.unique(np.geomspace(1, n, min(GRID, n)).round().astype(int))
    pilot = [_moments(denoise, x0, hops[n - place], rng, cond) for place in from_data]
    importance, noise, slopes = (_between(from_data, np.array(values), n) for values in zip(*pilot, strict=True))
    probability = (1 - UNIFORM_SHARE) * importance / importance.sum() + UNIFORM_SHARE / n
    _, decoder_noise, decoder_slope = _moments(denoise, x0, hops[-1], rng, cond)
    share = decoder_noise / max(decoder_noise + noise.sum(), np.finfo(float).tiny)
    decoder_draws = int(np.clip(round(calls * share), 1, calls - 1))
    # the chain runs from noise to data, the pilot's places from data to noise
    chances, rises = (torch.from_numpy(values[::-1].copy()) for values in (probability, slopes))
    return HopPlan(chances, calls - decoder_draws, decoder_draws, rises, decoder_slope)


def _moments(
    denoise: Denoise, x0: Tensor, tr: Transition, rng: Noise, cond: dict[str, Any]
) -> tuple[float, float, float]:
    """√E[L²] of one hop; the deviation of L over the noise of one image, and its slope over ‖ε‖²."""
    eps = [rng.randn_like(x0) for _ in range(DRAWS)]
    one, two = (hop_term(denoise, x0, tr, e, **cond)[0] for e in eps)
    long, longer = (sum_per_image(e.square()).cpu() for e in eps)
    rise, run = one - two, long - longer
    slope = float((rise * run).sum() / run.square().sum().clamp(min=1e-300))
    second = (one.square() + two.square()).mean() / 2
    noise = (rise - slope * run).square().mean() / 2
    return float(second.sqrt()), float(noise.sqrt()), max(slope, 0.0)


def _between(places: npt.NDArray[np.int64], values: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """Values at some of the places 1 … n, interpolated to all of them: straight lines between logarithms."""
    least = max(float(values.max()) * 1e-9, np.finfo(float).tiny)
    between: npt.NDArray[np.float64] = np.exp(
        np.interp(np.log(np.arange(1, n + 1)), np.log(places), np.log(values.clip(min=least)))
    )
    return between
