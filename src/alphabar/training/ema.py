"""The exponential moving average of the weights, which every sample and number is made from."""

from __future__ import annotations

import copy
import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.model.denoiser import Denoiser

__all__ = ["Ema", "EmaConfig"]


@choice
class EmaConfig:
    """How fast the average follows: after ``halflife_images`` training images, old weights count half.

    With ``warmup`` the n-th update decays by at most (1 + n)/(10 + n), so that the initial weights are forgotten early:
    without it, a decay of 0.9999 still holds 37 % of them after 10,000 steps. The paper's 0.9999 at batch 128 is a
    half-life of 887,000 images.
    """

    halflife_images: Annotated[int, Field(ge=1, le=10**12)] = 887_000
    warmup: bool = True

    def _slowest(self, batch: int) -> float:
        return float(0.5 ** (batch / self.halflife_images))

    def decay(self, update: int, batch: int) -> float:
        """The share of the old average that the ``update``-th update (1, 2, …) of a run at this ``batch`` keeps."""
        decay = self._slowest(batch)
        return min(decay, (1 + update) / (10 + update)) if self.warmup else decay

    def initial_share(self, updates: int, batch: int) -> float:
        """How much of the average is still the initial weights after ``updates`` updates: the product of all decays.

        In closed form, ∏ (1 + n)/(10 + n) = Γ(m + 2) Γ(11)/Γ(m + 11) over the m updates of the warm-up, then powers.
        """
        decay = self._slowest(batch)
        rising = 0
        if self.warmup:
            # (1 + n)/(10 + n) < d as long as n < (10 d − 1)/(1 − d); a d that rounds to 1 is never reached
            rising = updates if decay == 1 else min(updates, max(0, math.ceil((10 * decay - 1) / (1 - decay)) - 1))
        log_share = math.lgamma(rising + 2) + math.lgamma(11) - math.lgamma(rising + 11)
        return math.exp(log_share - (updates - rising) * math.log(2) * batch / self.halflife_images)


class Ema:
    """A second denoiser that trails the first. It is updated in one direction only and never swapped back."""

    def __init__(self, denoiser: Denoiser, config: EmaConfig, batch: int) -> None:
        self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.config = config
        self.batch = batch
        self._averages: list[Tensor] = list(self.denoiser.parameters())

    @torch.no_grad()
    def update(self, denoiser: Denoiser, update: int) -> None:
        """θ_EMA ← d θ_EMA + (1 − d) θ, as the ``update``-th update (1, 2, …); buffers are copied."""
        keep = self.config.decay(update, self.batch)
        weights: list[Tensor] = list(denoiser.parameters())
        torch._foreach_lerp_(self._averages, weights, 1 - keep)
        for mine, theirs in zip(self.denoiser.buffers(), denoiser.buffers(), strict=True):
            mine.copy_(theirs)
