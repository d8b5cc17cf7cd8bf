"""From an image to the noise that DDIM turns into it (DDIM inversion)."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.model.denoiser import Denoise
from alphabar.process import equations as eq
from alphabar.process.chain import Chain

__all__ = ["invert"]


@torch.no_grad()
def invert(denoise: Denoise, x_0: Tensor, chain: Chain, *, iterations: int = 3) -> Tensor:
    """DDIM, Eq. 13 (upwards).  x_t = √(ᾱ_t/ᾱ_s) x_s + (√(1−ᾱ_t) − √(1−ᾱ_s) √(ᾱ_t/ᾱ_s)) ε̂(x_t, t), s = 0 to t = T.

    Returns x at the first time of ``chain`` [B, C, H, W], from ``x_0`` [B, C, H, W] in the model's range;
    ``sample(denoise, DDIM(), x_T, chain, rng)`` leads back. Each hop inverts DDIM's own and needs ε̂ at the x_t that it
    looks for: it begins with the ε̂ of the hop below (0 at first) and repeats ``iterations`` times, at one network call
    each. One iteration is exact for infinitely short hops; more make the way back exact on the given chain too, where
    they converge: |∂ε̂/∂x| < 1/(√(1−ᾱ_t) − √(1−ᾱ_s) √(ᾱ_t/ᾱ_s)). What is clipped cannot be recovered.

    Raises:
        ConfigError: if ``iterations`` is below 1.
    """
    if iterations < 1:
        raise ConfigError(f"iterations: got {iterations}, need at least 1, one network call per hop")
    x, eps = x_0, torch.zeros_like(x_0)
    for tr in reversed(tuple(chain)):
        x_s = x
        x = eq.transfer(x_s, eps, tr.abar_s, tr.abar_t)
        for _ in range(iterations):
            eps = denoise(x, tr).eps
            x = eq.transfer(x_s, eps, tr.abar_s, tr.abar_t)
    return x
