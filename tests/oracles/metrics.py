"""Measures of sample quality from their definitions, with numpy and scipy: matrix roots, double sums and loops.

Laws: Dowson and Landau 1982, Heusel et al. 2017 (Fréchet); Gretton et al. 2012, Bińkowski et al. 2018 (kernel);
Salimans et al. 2016 (Inception score); Kynkäänniemi et al. 2019, Naeem et al. 2020 (neighbourhoods). Slow on purpose.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.linalg import sqrtm

Array = np.ndarray


def frechet_of_gaussians(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁ S₂)^½) by scipy's matrix root; for covariances of full rank."""
    root = sqrtm(cov_a @ cov_b)
    return float(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2.0 * np.trace(root).real)


def frechet_of_features(a: Array, b: Array) -> float:
    """The same for few images: with centred features A and B the trace of the root is the nuclear norm of A Bᵀ.

    No covariance is formed, so the dimensions without any variance never enter.
    """
    centred_a = (a - a.mean(0)) / (len(a) - 1) ** 0.5
    centred_b = (b - b.mean(0)) / (len(b) - 1) ** 0.5
    cross = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(apart + np.sum(centred_a**2) + np.sum(centred_b**2) - 2.0 * cross)


def kernel(x: Array, y: Array) -> float:
    """(x·y / D + 1)³ of two vectors."""
    return float((np.dot(x, y) / len(x) + 1.0) ** 3)


def squared_mmd(a: Array, b: Array) -> float:
    """The unbiased estimate, pair by pair."""
    n, m = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i, j in product(range(n), repeat=2) if i != j)
    within_b = sum(kernel(b[i], b[j]) for i, j in product(range(m), repeat=2) if i != j)
    between = sum(kernel(x, y) for x, y in product(a, b))
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2.0 * between / (n * m)


def population_mmd(points: Array, p: Array, q: Array) -> float:
    """MMD² of two distributions on the same ``points``, with probabilities ``p`` and ``q``."""
    gram = np.array([[kernel(x, y) for y in points] for x in points])
    return float((p - q) @ gram @ (p - q))


def jackknife_error(a: Array, b: Array, groups: int) -> float:
    """Delete-a-group jackknife of :func:`squared_mmd`, each estimate computed anew."""
    parts_a, parts_b = np.array_split(np.arange(len(a)), groups), np.array_split(np.arange(len(b)), groups)
    without = [
        squared_mmd(np.delete(a, i, axis=0), np.delete(b, j, axis=0)) for i, j in zip(parts_a, parts_b, strict=True)
    ]
    return float(((groups - 1) / groups * np.sum((np.array(without) - np.mean(without)) ** 2)) ** 0.5)


def inception_scores(logits: Array, splits: int) -> list[float]:
    """exp of the mean KL of each split, image by image."""
    scores = []
    for i in range(splits):
        part = logits[i * len(logits) // splits : (i + 1) * len(logits) // splits]
        p = np.exp(part - part.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        marginal = p.mean(0)
        kl = [sum(x * np.log(x / m) for x, m in zip(row, marginal, strict=True) if x > 0.0) for row in p]
        scores.append(float(np.exp(np.mean(kl))))
    return scores


def _squared(x: Array, y: Array) -> float:
    return float(np.sum((x - y) ** 2))


def _radii(points: Array, k: int) -> list[float]:
    """Squared distance to the k-th nearest other point."""
    return [sorted(_squared(x, y) for j, y in enumerate(points) if j != i)[k - 1] for i, x in enumerate(points)]


def neighbourhoods(real: Array, fake: Array, k_precision: int, k_coverage: int) -> tuple[float, float, float, float]:
    """(precision, recall, density, coverage) with closed balls, by loops."""
    narrow, wide, of_fakes = _radii(real, k_precision), _radii(real, k_coverage), _radii(fake, k_precision)
    precision = np.mean([any(_squared(x, y) <= r for x, r in zip(real, narrow, strict=True)) for y in fake])
    recall = np.mean([any(_squared(x, y) <= r for y, r in zip(fake, of_fakes, strict=True)) for x in real])
    density = sum(_squared(x, y) <= r for x, r in zip(real, wide, strict=True) for y in fake) / (k_coverage * len(fake))
    coverage = np.mean([any(_squared(x, y) <= r for y in fake) for x, r in zip(real, wide, strict=True)])
    return float(precision), float(recall), float(density), float(coverage)
