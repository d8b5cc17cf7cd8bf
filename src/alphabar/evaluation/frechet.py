"""The Fréchet distance between two sets of features, each seen as a Gaussian: FID when the features are Inception's."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.errors import DataError
from alphabar.evaluation.moments import Moments

__all__ = ["frechet_distance"]


def frechet_distance(a: Moments, b: Moments) -> float:
    """d² = |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁^½ S₂ S₁^½)^½), in squared units of the features; real, finite, ≥ 0.

    Source: Dowson and Landau 1982; Heusel et al. 2017, Eq. 6. S are the unbiased covariances of two sets of two or more
    images. Few images give a biased (too large) distance: compare sets of equal size only.

    With any R such that S = R Rᵀ, the trace of the root is the sum of the singular values of R₁ᵀ R₂. Taken that way no
    root of a rounded eigenvalue enters: S₁ S₂ of 500 images in 2048 dimensions has 1549 eigenvalues that are zero, and
    the root of what rounding makes of one is 10⁻⁸, not 10⁻¹⁶.

    Raises:
        DataError: if the sets differ in D, hold fewer than two images, or have moments that are not finite.
    """
    if len(a.mean) != len(b.mean):
        raise DataError(
            f"Fréchet distance: got features of {len(a.mean)} and of {len(b.mean)} dimensions, need equal ones; "
            "use the same network for both sets"
        )
    if not all(x.isfinite().all() for part in (a, b) for x in (part.mean, part.scatter)):
        raise DataError(
            "Fréchet distance: got moments with NaN or infinity, need finite ones; look for broken images or weights"
        )
    root_a, root_b = _root(a.covariance), _root(b.covariance)
    cross = torch.linalg.svdvals(root_a.T @ root_b).sum()
    squared = (a.mean - b.mean).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
    return max(float(squared), 0.0)  # below zero only by the rounding of the difference


def _root(covariance: Tensor) -> Tensor:
    """R [D, rank] with R Rᵀ = ``covariance`` [D, D], without the eigenvalues that rounding alone can make."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root
