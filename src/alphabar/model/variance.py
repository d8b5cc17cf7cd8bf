"""log σ² of p_θ(x_s | x_t), the Σ_θ of Eq. 1.

Where s = 0 the fixed kinds use ``var_floor`` of the chain instead (see ``chain.Chain``): β̃ is 0 there, and Ho et al.'s
code takes β̃_2 for both kinds.
"""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError
from alphabar.base.registry import Registry
from alphabar.base.tensors import Coef, log, to_image
from alphabar.process.chain import Transition
from alphabar.process.equations import beta, beta_tilde

__all__ = ["VARIANCES", "FixedLarge", "FixedSmall", "Learned", "LearnedRange", "Variance"]


class Variance(Protocol):
    """The variance of one hop. ``channels`` is the number of network outputs per image channel: 1, or 2 if learned."""

    channels: ClassVar[int]

    def log_var(self, raw: Tensor | None, tr: Transition) -> Coef | Tensor:
        """ln σ²: a float or [B] when fixed, [B, C, H, W] when learned from ``raw``, the second half of the output."""
        ...


def _log_or_floor(var: Coef, tr: Transition) -> Coef:
    """ln ``var``, or ln ``var_floor`` where the hop ends at 0."""
    floor = math.log(tr.var_floor)
    if isinstance(var, Tensor):
        assert isinstance(tr.s, Tensor)
        return torch.where(tr.s == 0, floor, torch.where(tr.s == 0, 1.0, var).log())
    return floor if tr.s == 0 else log(var)


@choice
class FixedSmall:
    """σ² = β̃ (Eq. 7), exact when the data are one point (Ho et al. §3.2)."""

    channels: ClassVar[int] = 1

    def log_var(self, raw: Tensor | None, tr: Transition) -> Coef:
        """ln β̃."""
        return _log_or_floor(beta_tilde(tr.abar_t, tr.abar_s), tr)


@choice
class FixedLarge:
    """σ² = β (Eq. 2), exact when the data are N(0, I) (Ho et al. §3.2)."""

    channels: ClassVar[int] = 1

    def log_var(self, raw: Tensor | None, tr: Transition) -> Coef:
        """ln β."""
        return _log_or_floor(beta(tr.abar_t, tr.abar_s), tr)


@choice
class Learned:
    """ln σ² is the second half of the network's output (Ho et al., Table 2, "learned diagonal Σ").

    It is the variance of the hop t → t − 1 that the network was trained on and says nothing about longer hops.
    """

    channels: ClassVar[int] = 2

    def log_var(self, raw: Tensor | None, tr: Transition) -> Tensor:
        """The output itself.

        Raises:
            ConfigError: for a hop of more than one step.
        """
        assert raw is not None
        steps = torch.as_tensor(tr.t) - torch.as_tensor(tr.s)
        if (steps != 1).any():
            raise ConfigError(
                f"variance learned: is that of single steps, got a hop of {int(steps.max())}; use the full chain "
                "(--steps T), or DDIM, which needs no variance"
            )
        return raw


@choice
class LearnedRange:
    """ln σ² lies between ln β̃ (output −1) and ln β (output +1) (Nichol and Dhariwal 2021, Eq. 15)."""

    channels: ClassVar[int] = 2

    def log_var(self, raw: Tensor | None, tr: Transition) -> Tensor:
        """u ln β + (1 − u) ln β̃ with u = (raw + 1)/2."""
        assert raw is not None
        u = (raw + 1) / 2
        low = to_image(_log_or_floor(beta_tilde(tr.abar_t, tr.abar_s), tr), raw)
        high = to_image(log(beta(tr.abar_t, tr.abar_s)), raw)
        return u * high + (1 - u) * low


VARIANCES: Registry[type[Variance]] = Registry(
    "variances",
    {
        "fixed_small": FixedSmall,
        "fixed_large": FixedLarge,
        "learned": Learned,
        "learned_range": LearnedRange,
    },
)
