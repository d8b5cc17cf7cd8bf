"""Sampling from p_θ itself."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Noise
from alphabar.base.tensors import scale
from alphabar.model.denoiser import Denoise
from alphabar.process.chain import Chain, Transition
from alphabar.samplers.driver import Step

__all__ = ["Ancestral"]


@choice
class Ancestral:
    """Algorithm 2.  x_s = μ_θ(x_t, t) + σ z, z ~ N(0, I), and z = 0 on the hop that ends at 0; for any hop t → s."""

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    needs_variance: ClassVar[bool] = True
    few_steps: ClassVar[str] = "uniform"
    calls_per_hop: ClassVar[int] = 1

    def init(self, chain: Chain) -> None:
        """No state."""

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: None, rng: Noise) -> Step:
        """One draw from p_θ(x_s | x_t)."""
        est = denoise(x_t, tr)
        if tr.s == 0:
            return Step(est.mean, est.x0, state)
        sigma = torch.exp(torch.as_tensor(est.log_var, dtype=torch.float64) / 2)
        noise = rng.randn_like(x_t)
        noise = scale(noise, float(sigma)) if sigma.ndim == 0 else sigma.to(x_t.dtype) * noise
        return Step(est.mean + noise, est.x0, state)
