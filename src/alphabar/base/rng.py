"""Explicit randomness: every random number is a pure function of a seed and of what it is for.

A generator is made where it is needed from ``(seed, purpose, step, …)``, so there is no state to save and none to
restore: a resumed run draws what the uninterrupted run would have drawn. Numbers are drawn on the CPU and moved, so
that a seed means the same picture on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Noise", "PerImage", "Rng", "Uniforms", "derive", "stream", "uniforms"]


class Noise(Protocol):
    """What samplers and the bound need of a random source. Tests pass their own noise through the same door."""

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and device of ``x``."""
        ...


def derive(seed: int, *keys: object) -> int:
    """A 63-bit seed from ``seed`` and the keys that name its purpose (BLAKE2b), e.g. ``derive(0, "eps", step)``."""
    text = "\x1f".join([str(int(seed)), *(f"{type(k).__name__}:{k}" for k in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@runtime_checkable
class Uniforms(Protocol):
    """A random source that also draws uniform numbers."""

    def rand(self, shape: Sequence[int]) -> Tensor:
        """Uniform float64 numbers in [0, 1)."""
        ...


def uniforms(rng: Noise, shape: Sequence[int]) -> Tensor:
    """Uniform float64 numbers in [0, 1) from any random source: Φ of its normal ones where it draws no others."""
    if isinstance(rng, Uniforms):
        return rng.rand(shape)
    normal = rng.randn_like(torch.empty(tuple(shape), dtype=torch.float64))
    u: Tensor = torch.special.ndtr(normal)
    return u.clamp(max=1 - 2**-53)


class Rng:
    """One random stream on the CPU."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of the given shape."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype)

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and device of ``x``."""
        return self.randn(x.shape, x.dtype).to(x.device)

    def rand(self, shape: Sequence[int]) -> Tensor:
        """Uniform float64 numbers in [0, 1)."""
        return torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        """Integers in low … high−1 (int64)."""
        return torch.randint(low, high, tuple(shape), generator=self.generator)

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 … n−1 in random order (int64)."""
        return torch.randperm(n, generator=self.generator)


class PerImage:
    """One stream per image: image i of a batch depends on ``seeds[i]`` alone, not on its neighbours."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.streams = [Rng(derive(seed, "image")) for seed in seeds]

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers [B, *shape], one image of the given shape from each stream."""
        return torch.stack([stream.randn(shape, dtype) for stream in self.streams])

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape, dtype and device of ``x`` [B, ...], where B is the number of seeds."""
        if len(x) != len(self.streams):
            raise ValueError(f"PerImage: got {len(x)} images for {len(self.streams)} seeds; give one seed per image")
        return self.randn(x.shape[1:], x.dtype).to(x.device)


def stream(seed: int, *keys: object) -> Rng:
    """The random stream for one purpose, e.g. ``stream(seed, "eps", step)``."""
    return Rng(derive(seed, *keys))
