"""The Fréchet distance against closed forms, scipy's matrix root, the nuclear norm of few images and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from alphabar.base.errors import DataError
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.moments import Moments
from oracles import metrics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, covariance: Tensor) -> Moments:
    """The moments of a set whose mean and covariance are exactly these."""
    return Moments(2, mean, covariance)


def distance(a: Tensor, b: Tensor) -> float:
    return frechet_distance(Moments.of(a), Moments.of(b))


@pytest.mark.parametrize("dims", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_full_covariances_agree_with_scipy(dims: int, seed: int) -> None:
    mixes = normal(2, dims, dims, seed=seed)
    means = normal(2, dims, seed=seed + 100)
    covs = mixes @ mixes.mT + 0.1 * torch.eye(dims, dtype=torch.float64)
    expected = metrics.frechet_of_gaussians(*(x.numpy() for pair in zip(means, covs, strict=True) for x in pair))
    found = frechet_distance(gaussian(means[0], covs[0]), gaussian(means[1], covs[1]))
    assert found == pytest.approx(expected, rel=1e-10)


def test_the_two_oracles_agree() -> None:
    a, b = normal(40, 6, seed=8).numpy(), normal(30, 6, seed=9).numpy() + 1.0
    moments = (x for part in (a, b) for x in (part.mean(0), np.cov(part, rowvar=False)))
    assert metrics.frechet_of_gaussians(*moments) == pytest.approx(metrics.frechet_of_features(a, b), rel=1e-11)


def test_on_a_line() -> None:
    """(m₁ − m₂)² + (σ₁ − σ₂)²."""
    a, b = (gaussian(torch.tensor([m]).double(), torch.tensor([[s * s]]).double()) for m, s in ((1.0, 2.0), (4.0, 0.5)))
    assert frechet_distance(a, b) == pytest.approx(9.0 + 2.25, rel=1e-15)


@pytest.mark.parametrize("decades", [0, 4, 8, 12])
def test_covariances_that_commute(decades: int) -> None:
    """Σ (√λ − √μ)² with eigenvalues over many decades, paired against each other."""
    dims = 60
    axes = torch.linalg.qr(normal(dims, dims)).Q
    lam = torch.logspace(0, -decades, dims, dtype=torch.float64)
    a, b = (gaussian(torch.zeros(dims).double(), axes * values @ axes.T) for values in (lam, lam.flip(0)))
    expected = float((lam.sqrt() - lam.flip(0).sqrt()).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-9 * float(lam.sum()))


def test_two_images_each() -> None:
    """Rank one: |m₁ − m₂|² + |u|² + |v|² − 2 |u·v| with u, v the half differences times √2."""
    a, b = normal(2, 2, 300)
    u, v = (a[0] - a[1]) / 2**0.5, (b[0] - b[1]) / 2**0.5
    expected = (a.mean(0) - b.mean(0)).square().sum() + u @ u + v @ v - 2 * (u @ v).abs()
    assert distance(a, b) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "dims"), [(2, 50, 120), (50, 50, 300), (30, 200, 100), (3, 3, 2)])
def test_fewer_images_than_dimensions(n: int, m: int, dims: int) -> None:
    """Most eigenvalues are zero; what rounding makes of them must not add up."""
    a, b = normal(n, dims, seed=1) * 3.0 + 0.2, normal(m, dims, seed=2).abs()
    assert distance(a, b) == pytest.approx(metrics.frechet_of_features(a.numpy(), b.numpy()), rel=1e-11)


@pytest.mark.parametrize("dims", [3, 64, 200])
@pytest.mark.parametrize("n", [2, 50, 500])
def test_equal_sets_are_at_distance_zero(n: int, dims: int) -> None:
    x = normal(n, dims).float().abs()
    whole = Moments.of(x)
    trace = float(whole.covariance.trace())
    assert 0.0 <= frechet_distance(whole, whole) <= 1e-12 * trace
    in_shards = Moments.of(x[n // 3 :]) + Moments.of(x[: n // 3])
    assert 0.0 <= frechet_distance(whole, in_shards) <= 1e-12 * trace


def test_duplicated_images() -> None:
    """Each image twice has the covariance of the set times (2n − 2)/(2n − 1), mean unchanged."""
    x = normal(20, 90)
    trace = float(Moments.of(x).covariance.trace())
    expected = trace * (1 - math.sqrt(38 / 39)) ** 2
    assert distance(x, x.repeat(2, 1)) == pytest.approx(expected, abs=1e-12 * trace)


def test_constant_images() -> None:
    """No covariance: between two such sets only the means count, and beside one its trace is added."""
    ones, twos, spread = torch.ones(5, 80), torch.full((9, 80), 2.0), normal(30, 80)
    assert distance(ones, ones) == 0.0
    assert distance(ones, twos) == pytest.approx(80.0, rel=1e-15)
    assert distance(spread, twos) == pytest.approx(
        float((spread.mean(0) - 2.0).square().sum() + spread.var(0).sum()), rel=1e-13
    )


def test_an_offset_of_both_sets_changes_nothing() -> None:
    a, b = normal(300, 8, seed=3), 1.5 * normal(200, 8, seed=4)
    assert distance(a + 1e6, b + 1e6) == pytest.approx(distance(a, b), rel=1e-8)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 12), st.integers(0, 3), st.integers(0, 10**6))
def test_always_real_finite_and_not_negative(n: int, m: int, dims: int, levels: int, seed: int) -> None:
    """Few grey values make many duplicates and dead dimensions."""
    draw = np.random.default_rng(seed)
    a, b = (torch.from_numpy(draw.integers(0, levels + 1, (size, dims)) / 3.0) for size in (n, m))
    there, back = distance(a, b), distance(b, a)
    assert math.isfinite(there) and there >= 0.0
    scale = float(Moments.of(a).covariance.trace() + Moments.of(b).covariance.trace()) + 1.0
    assert there == pytest.approx(back, abs=1e-12 * scale)
    assert there == pytest.approx(metrics.frechet_of_features(a.numpy(), b.numpy()), abs=1e-12 * scale)


class Given(torch.nn.Module):
    """Features that are given instead of images."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.num_features = dims

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_torchmetrics_says_the_same() -> None:
    a, b = normal(400, 16, seed=5), normal(300, 16, seed=6) @ normal(16, 16, seed=7)
    other = FrechetInceptionDistance(feature=Given(16))
    other.update(a, real=True)
    other.update(b, real=False)
    assert distance(a, b) == pytest.approx(float(other.compute()), rel=1e-10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_moments_that_are_not_finite_are_refused(value: float) -> None:
    good, bad = normal(5, 3), normal(5, 3)
    bad[2, 1] = value
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(DataError, match="NaN or infinity") as caught:
            distance(*pair)
        assert "\n" not in str(caught.value)


def test_sets_must_fit_and_hold_two_images() -> None:
    with pytest.raises(DataError, match="of 3 and of 4 dimensions"):
        distance(normal(5, 3), normal(5, 4))
    with pytest.raises(DataError, match="need 2 or more"):
        distance(normal(5, 3), normal(1, 3))
