"""The only sampling loop, and what a sampler is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from alphabar.base.rng import Noise
from alphabar.model.denoiser import Denoise
from alphabar.process.chain import Chain, Transition

__all__ = ["Frame", "Sampler", "Step", "network_calls", "sample", "trajectory"]


class Step(NamedTuple):
    """What one update returns: x_s and x̂_0 [B, C, H, W], and whatever the sampler carries to its next update."""

    x: Tensor
    x0: Tensor
    state: Any


class Frame(NamedTuple):
    """One moment of sampling: the time ``t`` just reached, x_t, and the x̂_0 that led there, both [B, C, H, W]."""

    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """One update rule x_t → x_s; implementations are frozen values.

    ``order`` is the order of convergence to the exact reverse process (in distribution, where noise is drawn) on chains
    along which λ = ½ ln ᾱ/(1−ᾱ) grows smoothly down to the last time above 0, the hop from there being x̂_0;
    ``stochastic`` says whether noise is drawn, ``needs_variance`` whether σ² of p_θ(x_s | x_t) plays a part,
    ``few_steps`` which spacing loses least where a chain is short and the images are larger than tiny: a rule that
    expands x̂_0 in λ gains by hops even in it (docs/samplers.md).
    """

    order: ClassVar[int]
    needs_variance: ClassVar[bool]
    few_steps: ClassVar[str]

    @property
    def stochastic(self) -> bool:
        """Whether an update draws noise."""
        ...

    @property
    def calls_per_hop(self) -> int:
        """How often an update asks the network, except for the last hop (to t = 0), where every sampler asks once."""
        ...

    def init(self, chain: Chain) -> Any:
        """The state before the first update."""
        ...

    def step(self, denoise: Denoise, x_t: Tensor, tr: Transition, state: Any, rng: Noise) -> Step:
        """One update along the hop ``tr``."""
        ...


def network_calls(sampler: Sampler, chain: Chain) -> int:
    """How often the network is asked to follow ``chain`` once, whatever the number of images."""
    return sampler.calls_per_hop * (len(chain) - 1) + 1


@torch.no_grad()
def trajectory(denoise: Denoise, sampler: Sampler, x_T: Tensor, chain: Chain, rng: Noise) -> Iterator[Frame]:
    """Follow ``chain`` from ``x_T`` [B, C, H, W], yielding a frame per hop; the last one has t = 0.

    Memory does not grow with the number of hops. Nothing is clipped or rounded here: see ``Clip`` and ``to_uint8``.
    """
    x, state = x_T, sampler.init(chain)
    for tr in chain:
        x, x0, state = sampler.step(denoise, x, tr, state, rng)
        assert isinstance(tr.s, int)
        yield Frame(tr.s, x, x0)


def sample(denoise: Denoise, sampler: Sampler, x_T: Tensor, chain: Chain, rng: Noise) -> Tensor:
    """The end of :func:`trajectory`: x_0 [B, C, H, W] from ``x_T``."""
    x = x_T
    for frame in trajectory(denoise, sampler, x_T, chain, rng):
        x = frame.x
    return x
