"""Losses: ``(est, x0, eps, tr) → [B]``, unreduced. A new one is a file with a frozen value and a line here."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from alphabar.base.registry import Registry
from alphabar.model.denoiser import Estimate
from alphabar.process.chain import Transition
from alphabar.training.objectives.bound import Bound
from alphabar.training.objectives.hybrid import Hybrid
from alphabar.training.objectives.min_snr import MinSNR
from alphabar.training.objectives.p2 import P2
from alphabar.training.objectives.simple import Simple

__all__ = ["OBJECTIVES", "P2", "Bound", "Hybrid", "MinSNR", "Objective", "Simple"]


class Objective(Protocol):
    """A loss of one estimate against the truth. ``teaches_variance``: whether a learned variance learns from it."""

    teaches_variance: ClassVar[bool]

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image: [B]."""
        ...


OBJECTIVES: Registry[type[Objective]] = Registry(
    "objectives", {"simple": Simple, "bound": Bound, "hybrid": Hybrid, "min_snr": MinSNR, "p2": P2}
)
