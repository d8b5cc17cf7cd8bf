"""How the network is told the time: the sinusoids of the Transformer, then two linear layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["SinusoidalPositionEmbeddings", "Sinusoids", "sinusoid"]


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """[sin(t f_0) … sin(t f_h−1), cos(t f_0) … cos(t f_h−1)], f_i = exp(−i ln 10000/(h−1)), h = dim/2.

    ``t`` [B] → float64 [B, dim]: sines first and h − 1 in the exponent, as in Ho et al.'s code and in the review.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float64, device=t.device) * (-math.log(10000) / (half - 1)))
    angles = t.to(torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Sinusoids(nn.Module):
    """The sinusoids of any t, computed when needed: [B] → [B, dim] in the precision of the network."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        # without parameters of its own, the module learns the precision that .double() or .half() asked for from this
        self.register_buffer("precision", torch.empty(0), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` [B] → [B, dim]."""
        assert isinstance(self.precision, Tensor)
        return sinusoid(t, self.dim).to(self.precision.dtype)


class SinusoidalPositionEmbeddings(nn.Module):
    """The time embedding: sinusoids, linear, SiLU, linear.

    Args:
        total_time_steps: the rows of a stored table of sinusoids, one for each t = 0 … total_time_steps − 1, as in the
            review; None computes them for any t.
        time_emb_dims: how many sinusoids (an even number of at least 4).
        time_emb_dims_exp: the width of the embedding.
    """

    def __init__(
        self, total_time_steps: int | None = 1000, time_emb_dims: int = 128, time_emb_dims_exp: int = 512
    ) -> None:
        super().__init__()
        table: nn.Module
        if total_time_steps is None:
            table = Sinusoids(time_emb_dims)
        else:
            rows = sinusoid(torch.arange(total_time_steps), time_emb_dims)
            table = nn.Embedding(total_time_steps, time_emb_dims, _weight=rows.to(torch.get_default_dtype()))
            table.requires_grad_(False)
        self.time_blocks = nn.Sequential(
            table,
            nn.Linear(time_emb_dims, time_emb_dims_exp),
            nn.SiLU(),
            nn.Linear(time_emb_dims_exp, time_emb_dims_exp),
        )

    def forward(self, time: Tensor) -> Tensor:
        """``time`` int64 [B] → [B, time_emb_dims_exp]."""
        embedding: Tensor = self.time_blocks(time)
        return embedding
