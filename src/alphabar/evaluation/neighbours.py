"""Fidelity and diversity apart: precision, recall, density and coverage from balls around feature vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.base.errors import DataError

__all__ = ["Neighbourhoods", "neighbourhood_scores"]

ROWS = 256  # of a distance matrix at a time
PAIRS = 128  # of distances computed from differences at a time: few enough for the cache


class Neighbourhoods(NamedTuple):
    """Precision, recall and coverage in [0, 1]; density from 0 up, about 1 for two sets of one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood_scores(real: Tensor, fake: Tensor, k_precision: int = 3, k_coverage: int = 5) -> Neighbourhoods:
    """How ``real`` [N, D] and ``fake`` [M, D] lie among each other; any float dtype, distances Euclidean in float64.

    The ball of a vector reaches to its k-th nearest other vector of the same set (not counting itself, but counting
    duplicates of it). It is closed: what lies at its radius exactly is in it. With k = ``k_precision`` (Kynkäänniemi et
    al. 2019, Eqs. 1–2)

    - precision: the share of fakes in some real ball,
    - recall: the share of reals in some fake ball,

    and with k = ``k_coverage`` (Naeem et al. 2020, section 3)

    - density: the number of real balls that a fake lies in, on average, over k,
    - coverage: the share of reals whose ball holds some fake.

    Distances come from a matrix product, and from differences wherever its rounding could decide. Hence equal vectors
    are at distance 0, and precision, recall and coverage of two equal sets are 1 exactly. The ``prdc`` package takes
    open balls (<) for density and coverage, which differs at ties only.

    Raises:
        DataError: if k is not 1 … N − 1 (``k_precision`` also ≤ M − 1), the sets differ in D, or a value is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise DataError(
            f"neighbourhoods: got features of shape {list(real.shape)} and {list(fake.shape)}, need [N, D] and [M, D]; "
            "use the same network for both sets"
        )
    for name, k, images in (
        ("k_precision", k_precision, min(len(real), len(fake))),
        ("k_coverage", k_coverage, len(real)),
    ):
        if not 1 <= k < images:
            raise DataError(f"{name}: got {k} with {images} images, need 1 … {images - 1}; give more images")
    real, fake = real.double(), fake.double()
    if not (real.square().sum() + fake.square().sum()).isfinite():
        raise DataError(
            "neighbourhoods: got features that are not finite, or whose squares are not; "
            "look for broken images or weights"
        )
    narrow, wide = _radii(real, (k_precision, k_coverage))
    (fake_radii,) = _radii(fake, (k_precision,))
    precise = torch.zeros(len(fake), dtype=torch.bool)
    recalled = covered = inside = 0
    for start in range(0, len(real), ROWS):
        here = slice(start, start + ROWS)
        block = _Distances(real[here], fake)
        precise |= block.at_most(narrow[here, None]).any(0)
        recalled += int(block.at_most(fake_radii).any(1).sum())
        in_wide = block.at_most(wide[here, None])
        covered += int(in_wide.any(1).sum())
        inside += int(in_wide.sum())
    return Neighbourhoods(
        precision=int(precise.sum()) / len(fake),
        recall=recalled / len(real),
        density=inside / (k_coverage * len(fake)),
        coverage=covered / len(real),
    )


def _radii(x: Tensor, ks: tuple[int, ...]) -> tuple[Tensor, ...]:
    """For each k the squared distance of every row of ``x`` [N, D] to its k-th nearest other row: [N] each."""
    blocks = []
    for start in range(0, len(x), ROWS):
        block = _Distances(x[start : start + ROWS], x)
        block.squared.diagonal(start).fill_(torch.inf)
        blocks.append([block.smallest(k) for k in ks])
    return tuple(torch.cat(column) for column in zip(*blocks, strict=True))


class _Distances:
    """Squared distances of ``x`` [n, D] to ``y`` [m, D], float64 [n, m], each known to within ``slack``."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        centre = y.mean(0)
        a, b = x - centre, y - centre
        norms = a.square().sum(1)[:, None] + b.square().sum(1)
        self.squared = norms - 2 * a @ b.T
        self.slack = norms * (8 * x.shape[1] * torch.finfo(norms.dtype).eps)
        self.settled = torch.zeros_like(self.squared, dtype=torch.bool)

    def at_most(self, radii: Tensor) -> Tensor:
        """Which are ≤ ``radii`` (broadcast to [n, m]), decided exactly: bool [n, m]."""
        self._settle((self.squared - radii).abs() <= self.slack)
        return self.squared <= radii

    def smallest(self, k: int) -> Tensor:
        """The exact k-th smallest of each row: [n]."""
        guess = self.squared.kthvalue(k, dim=1, keepdim=True).values
        self._settle((self.squared - guess).abs() <= 2 * self.slack.amax(1, keepdim=True))
        return self.squared.kthvalue(k, dim=1).values

    def _settle(self, doubtful: Tensor) -> None:
        """Compute the ``doubtful`` ones from differences, which rounds to nearly the last digit."""
        rows, columns = (doubtful & ~self.settled).nonzero(as_tuple=True)
        for start in range(0, len(rows), PAIRS):
            i, j = rows[start : start + PAIRS], columns[start : start + PAIRS]
            self.squared[i, j] = self.x.index_select(0, i).sub_(self.y.index_select(0, j)).square_().sum(1)
        self.settled |= doubtful
