"""Noise that a test decides on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class InjectedNoise:
    """Hands out the given tensors, one per ``randn_like``; asking for more than there are is a failure."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.queue = list(tensors)
        self.used = 0

    def randn_like(self, x: Tensor) -> Tensor:
        """The next tensor."""
        assert self.used < len(self.queue), f"noise was drawn more than {len(self.queue)} times"
        noise = self.queue[self.used]
        assert noise.shape == x.shape, f"noise {tuple(noise.shape)} injected where {tuple(x.shape)} was asked for"
        self.used += 1
        return noise.to(x.dtype)

    @property
    def left(self) -> int:
        """How many tensors nobody asked for."""
        return len(self.queue) - self.used


class FixedNoise:
    """The same ``noise`` at every ``randn_like``; uniform numbers (which hops, say) come from torch's generator."""

    def __init__(self, noise: Tensor, seed: int = 0) -> None:
        self.noise, self.generator = noise, torch.Generator().manual_seed(seed)
        self.calls = 0

    def randn_like(self, x: Tensor) -> Tensor:
        """``noise``."""
        self.calls += 1
        return self.noise.to(x.dtype)

    def rand(self, shape: Sequence[int]) -> Tensor:
        """Uniform float64 numbers in [0, 1)."""
        return torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)


class SeededNoise:
    """Standard normals of a torch generator, drawn in float32 (as diffusers' tests do) and cast."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def randn_like(self, x: Tensor) -> Tensor:
        """A fresh draw."""
        return torch.randn(x.shape, generator=self.generator, dtype=torch.float32).to(x.dtype)
