"""Which t to train on: every t equally often."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.rng import Rng

__all__ = ["Uniform"]


@choice
class Uniform:
    """Algorithm 1, line 3.  t ~ Uniform{1, …, T}.

    ``stratified`` draws one u from each of n equal strata of [0, 1) and deals them out in random order: each image's t
    is still uniform, but a batch covers the noise levels evenly, which lowers the variance of its loss.
    """

    stratified: bool = True

    def draw(self, n: int, T: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """Times int64 [n] in 1 … T and their importance weights float64 [n] (all 1)."""
        u = rng.rand([n])
        if self.stratified:
            u = ((torch.arange(n, dtype=torch.float64) + u) / n)[rng.permutation(n)]
        t = 1 + (u * T).long().clamp(max=T - 1)
        return t, torch.ones(n, dtype=torch.float64)
