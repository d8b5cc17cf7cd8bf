"""Which t to train on, with which weight. A new one is a file with a frozen value (``draw``) and a line here."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from alphabar.base.registry import Registry
from alphabar.base.rng import Rng
from alphabar.training.times.uniform import Uniform

__all__ = ["TIMES", "Times", "Uniform"]


class Times(Protocol):
    """A distribution over t."""

    def draw(self, n: int, T: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """Times int64 [n] in 1 … T and importance weights float64 [n] whose expectation makes the loss unbiased."""
        ...


TIMES: Registry[type[Times]] = Registry("times", {"uniform": Uniform})
