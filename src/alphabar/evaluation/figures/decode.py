"""The reverse process begun anywhere: what several experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.pixels import to_model_range
from alphabar.base.rng import Noise, stream
from alphabar.model.denoiser import Denoise, Denoiser
from alphabar.process import equations as eq
from alphabar.process.chain import Chain
from alphabar.samplers.driver import Sampler, sample

__all__ = ["below", "decode", "device_of", "encode", "labelled", "spread"]


def device_of(denoiser: Denoiser) -> torch.device:
    """Where the weights are."""
    return next((p.device for p in denoiser.parameters()), torch.device("cpu"))


def labelled(denoiser: Denoiser, y: Tensor | None) -> Denoise:
    """The denoiser with the labels ``y`` int64 [B] given to a network with classes."""
    return denoiser if y is None else partial(denoiser, y=y.to(device_of(denoiser)))


def below(chain: Chain, t: int) -> Chain:
    """From ``t`` down ``chain``: t itself, whether it is on the chain or not, then the times of the chain below it.

    Raises:
        ConfigError: if t is not one of 1 … T.
    """
    if not 1 <= t <= chain.schedule.T:
        raise ConfigError(f"t: got {t}, need 1 … {chain.schedule.T}, a time of the schedule")
    return Chain(chain.schedule, (t, *(s for s in chain.times if s < t)), chain.var_floor)


def encode(chain: Chain, image: Tensor, t: int, seed: int) -> Tensor:
    """A draw x_t ~ q(x_t | x_0) for one image uint8 [C, H, W], in the model's range; ``seed`` decides the noise."""
    x0 = to_model_range(image)
    return eq.q_sample(x0, stream(seed, "encode").randn(x0.shape), float(chain.schedule.alpha_bar[t]))


def decode(
    denoiser: Denoiser, sampler: Sampler, chain: Chain, x_t: Tensor, t: int, rng: Noise, y: Tensor | None = None
) -> Tensor:
    """x_0 [B, C, H, W] on the CPU from ``x_t`` by the reverse process; at t = 0 there is nothing to do."""
    if t == 0:
        return x_t
    x = x_t.to(device_of(denoiser))
    return sample(labelled(denoiser, y), sampler, x, below(chain, t), rng).cpu()


def spread(times: Sequence[int], count: int) -> list[int]:
    """The places of at most ``count`` of the ``times``, evenly spread and with both ends."""
    last = len(times) - 1
    count = min(count, len(times))
    return [round(k * last / max(1, count - 1)) for k in range(count)]
