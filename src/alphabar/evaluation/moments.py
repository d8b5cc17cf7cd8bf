"""What the Fréchet distance needs of a set of features: how many, their mean, their scatter; added shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from alphabar.base.errors import DataError

__all__ = ["Moments"]

ROWS = 4096  # of a float64 copy at a time


@dataclass(frozen=True)
class Moments:
    """The first two moments of N feature vectors of D dimensions, float64 whatever the features were.

    ``Moments.of(a) + Moments.of(b)`` are the moments of both sets together, so each shard of a data set can be summed
    up by itself. Every sum is taken about a mean, never about the origin: an offset that all features share costs no
    more digits than it costs the features themselves.

    Attributes:
        n: N ≥ 0.
        mean: x̄, float64 [D]; zeros where n = 0.
        scatter: Σ (x − x̄)(x − x̄)ᵀ, float64 [D, D].
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """The moments of ``features`` [N, D], any float dtype and N ≥ 0.

        Raises:
            DataError: if ``features`` is no matrix of floats.
        """
        if features.ndim != 2 or not features.is_floating_point():
            raise DataError(
                f"features: got {features.dtype} of shape {list(features.shape)}, need floats of shape [N, D]; "
                "give one row per image"
            )
        starts = range(0, max(len(features), 1), ROWS)
        return reduce(add, (_of_rows(features[start : start + ROWS]) for start in starts))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub and LeVeque 1979).

        Raises:
            DataError: if the sets differ in D.
        """
        if len(self.mean) != len(other.mean):
            raise DataError(
                f"moments: got features of {len(self.mean)} and of {len(other.mean)} dimensions, need equal ones; "
                "use the same network for both"
            )
        n = self.n + other.n
        share = other.n / max(n, 1)
        apart = other.mean - self.mean
        return Moments(
            n, self.mean + share * apart, self.scatter + other.scatter + (self.n * share) * torch.outer(apart, apart)
        )

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate scatter / (n − 1), float64 [D, D].

        Raises:
            DataError: if n < 2.
        """
        if self.n < 2:
            raise DataError(f"covariance: got {self.n} image(s), need 2 or more; give more images")
        return self.scatter / (self.n - 1)


def _of_rows(features: Tensor) -> Moments:
    """The moments of rows that fit into memory twice."""
    x = features.double()
    n = max(len(x), 1)
    mean = x.sum(0) / n
    x = x - mean
    rest = x.sum(0) / n  # what the first mean lost to rounding
    x = x - rest
    return Moments(len(features), mean + rest, x.T @ x)
