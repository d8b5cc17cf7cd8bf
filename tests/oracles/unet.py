"""The U-Net as one function of a state dict: no modules, attention by einsum. Evaluation mode only.

Written from the description of the review (``Details that define the function``) and of the paper's network; the keys
it reads are the review's parameter names, so it also pins those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional


class ReviewUNet:
    """``ReviewUNet(state, multiples, attend, blocks)(x, t)``: the function that these weights define."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        multiples: Sequence[int],
        attend: Sequence[bool],
        blocks: int,
        *,
        groups: int = 8,
        eps: float = 1e-5,
        heads: int = 4,
        right_and_below: bool = False,
    ) -> None:
        self.state, self.levels, self.attend, self.blocks = state, len(multiples), attend, blocks
        self.groups, self.eps, self.heads, self.right_and_below = groups, eps, heads, right_and_below
        self.used: set[str] = set()

    def weight(self, name: str) -> Tensor:
        self.used.add(name)
        return self.state[name]

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weight(f"{name}.weight"), self.weight(f"{name}.bias")

    def norm(self, x: Tensor, name: str) -> Tensor:
        gain, shift = self.pair(name)
        batch, channels, height, width = x.shape
        grouped = x.reshape(batch, self.groups, -1)
        mean = grouped.mean(-1, keepdim=True)
        var = (grouped - mean).square().mean(-1, keepdim=True)
        x = ((grouped - mean) / (var + self.eps).sqrt()).reshape(batch, channels, height, width)
        return x * gain[:, None, None] + shift[:, None, None]

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.pair(name)
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    def silu(x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-x))

    def block(self, x: Tensor, time: Tensor, name: str, attend: bool) -> Tensor:
        h = self.conv(self.silu(self.norm(x, f"{name}.normalize_1")), f"{name}.conv_1")
        weight, bias = self.pair(f"{name}.dense_1")
        h = h + (self.silu(time) @ weight.T + bias)[:, :, None, None]
        h = self.conv(self.silu(self.norm(h, f"{name}.normalize_2")), f"{name}.conv_2")
        h = h + (self.conv(x, f"{name}.match_input") if x.shape[1] != h.shape[1] else x)
        return self.attention(h, f"{name}.attention") if attend else h

    def attention(self, x: Tensor, name: str) -> Tensor:
        batch, channels = x.shape[:2]
        positions = self.norm(x, f"{name}.group_norm").reshape(batch, channels, -1).permute(0, 2, 1)
        packed = positions @ self.weight(f"{name}.mhsa.in_proj_weight").T + self.weight(f"{name}.mhsa.in_proj_bias")
        depth = channels // self.heads
        q, k, v = (part.reshape(batch, -1, self.heads, depth) for part in packed.split(channels, dim=-1))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(depth)
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(batch, -1, channels)
        weight, bias = self.pair(f"{name}.mhsa.out_proj")
        return x + (mixed @ weight.T + bias).permute(0, 2, 1).reshape(x.shape)

    def down(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.pair(f"{name}.downsample")
        padding = (0, 1, 0, 1) if self.right_and_below else (1, 1, 1, 1)
        return functional.conv2d(functional.pad(x, padding), weight, bias, stride=2)

    def up(self, x: Tensor, name: str) -> Tensor:
        twice = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return self.conv(twice, f"{name}.upsample.1")

    def time(self, t: Tensor) -> Tensor:
        blocks = "time_embeddings.time_blocks"
        if f"{blocks}.0.weight" in self.state:
            rows = self.weight(f"{blocks}.0.weight")[t]
        else:
            half = self.state[f"{blocks}.1.weight"].shape[1] // 2
            frequencies = torch.exp(-torch.arange(half, dtype=torch.float64) * math.log(10000) / (half - 1))
            angles = t[:, None] * frequencies
            rows = torch.cat([angles.sin(), angles.cos()], 1)
        weight, bias = self.pair(f"{blocks}.1")
        h = self.silu(rows.to(weight.dtype) @ weight.T + bias)
        weight, bias = self.pair(f"{blocks}.3")
        return h @ weight.T + bias

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        time = self.time(t)
        if y is not None:
            time = time + self.weight("label_embeddings.weight")[y]
        h = self.conv(x, "first")
        skips = [h]
        number = 0
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = self.block(h, time, f"encoder_blocks.{number}", self.attend[level])
                skips.append(h)
                number += 1
            if level < self.levels - 1:
                h = self.down(h, f"encoder_blocks.{number}")
                skips.append(h)
                number += 1
        h = self.block(h, time, "bottleneck_blocks.0", True)
        h = self.block(h, time, "bottleneck_blocks.1", False)
        number = 0
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = torch.cat([h, skips.pop()], 1)
                h = self.block(h, time, f"decoder_blocks.{number}", self.attend[level])
                number += 1
            if level > 0:
                h = self.up(h, f"decoder_blocks.{number}")
                number += 1
        return self.conv(self.silu(self.norm(h, "final.0")), "final.2")
