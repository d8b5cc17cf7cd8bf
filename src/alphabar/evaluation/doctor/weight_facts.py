"""What can be said of weights without running them: are they finite, dead, or of an absurd size?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["WeightFacts"]


@dataclass(frozen=True)
class WeightFacts:
    """One set of weights.

    Attributes:
        tensors: how many there are.
        not_finite: names of those with NaN or infinity.
        dead: names of matrices and convolutions that are zero throughout; a bias may be.
        output: root mean square of the last convolution, or None where there is none of that name.
        largest: the greatest root mean square of a matrix or convolution.
        largest_name: its name.
    """

    tensors: int
    not_finite: tuple[str, ...]
    dead: tuple[str, ...]
    output: float | None
    largest: float
    largest_name: str

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> WeightFacts:
        """The facts of named ``tensors``."""
        floats = {name: value.double() for name, value in tensors.items() if value.is_floating_point()}
        good = {name: value for name, value in floats.items() if torch.isfinite(value).all()}
        sizes = {name: float(value.square().mean().sqrt()) for name, value in good.items() if value.ndim >= 2}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        last = [name for name in sizes if name.startswith("final.")]
        return WeightFacts(
            tensors=len(tensors),
            not_finite=tuple(sorted(floats.keys() - good.keys())),
            dead=tuple(name for name, size in sizes.items() if size == 0),
            output=sizes[last[-1]] if last else None,
            largest=sizes.get(largest, 0.0),
            largest_name=largest,
        )
