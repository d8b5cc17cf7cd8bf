"""Precision, recall, density and coverage against loops over all pairs and sets whose answers are plain to see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphabar.base.errors import DataError
from alphabar.evaluation import neighbours
from alphabar.evaluation.neighbours import neighbourhood_scores
from oracles import metrics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [
        # every real ball has radius 1; the fakes' radii are 6.5, 3, 0.5, 0.5
        (line(0, 1, 2, 3, 4, 5), line(0.5, 7, 10, 10.5), (1 / 4, 1.0, 2 / 4, 2 / 6)),
        # radii 1, 1, 2: the fake at 5 lies on the rim of the ball of 3, which belongs to it
        (line(0, 1, 3), line(5, 100), (1 / 2, 1.0, 1 / 2, 1 / 3)),
        # far apart, and the fakes nearer to each other
        (line(0, 1, 2), line(50, 51), (0.0, 0.0, 0.0, 0.0)),
        # one mode of two: all fakes good, half the reals missed
        (line(0, 1, 100, 101), line(0, 0.25, 0.75, 1), (1.0, 2 / 4, 8 / 4, 2 / 4)),
    ],
)
def test_sets_with_plain_answers(real: Tensor, fake: Tensor, expected: tuple[float, ...]) -> None:
    assert neighbourhood_scores(real, fake, 1, 1) == pytest.approx(expected, rel=1e-15)


@given(st.integers(3, 14), st.integers(3, 14), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.data())
def test_loops_say_the_same(n: int, m: int, dims: int, levels: int, seed: int, data: st.DataObject) -> None:
    """Few levels: duplicates and ties everywhere, all of them exact in binary."""
    k_precision = data.draw(st.integers(1, min(n, m) - 1))
    k_coverage = data.draw(st.integers(1, n - 1))
    draw = np.random.default_rng(seed)
    real, fake = (draw.integers(0, levels + 1, (size, dims)) / 8.0 for size in (n, m))
    found = neighbourhood_scores(torch.from_numpy(real), torch.from_numpy(fake), k_precision, k_coverage)
    assert found == pytest.approx(metrics.neighbourhoods(real, fake, k_precision, k_coverage), rel=1e-15)


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_blocks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ROWS", rows)
    monkeypatch.setattr(neighbours, "PAIRS", rows)
    real, fake = normal(40, 6, seed=1), 0.8 * normal(30, 6, seed=2)
    assert neighbourhood_scores(real, fake) == pytest.approx(metrics.neighbourhoods(real.numpy(), fake.numpy(), 3, 5))


def test_rounding_decides_nothing() -> None:
    """Two clusters 2²⁰ apart with ties at 2⁻¹⁰: a matrix product alone sees no distance inside a cluster."""
    draw = np.random.default_rng(3)
    real, fake = (draw.integers(0, 4, (30, 3)) * 2.0**-10 + draw.integers(0, 2, (30, 1)) * 2.0**20 for _ in range(2))
    found = neighbourhood_scores(torch.from_numpy(real), torch.from_numpy(fake), 1, 2)
    expected = metrics.neighbourhoods(real, fake, 1, 2)
    assert found == pytest.approx(expected, rel=1e-15)
    assert expected[0] < 1.0 and expected[3] < 1.0


@pytest.mark.parametrize(
    "x",
    [
        normal(300, 64, seed=4).float(),
        normal(300, 64, seed=4) * 0.1 + 1e6,
        normal(20, 64, seed=5).repeat(15, 1) / 3.0,
        normal(40, 8, seed=6).repeat(2, 1),
        torch.full((20, 8), 0.1),
        torch.cat([torch.full((19, 8), 1e-30), torch.full((1, 8), 1e15)]),
    ],
    ids=["plain", "offset", "many duplicates", "pairs", "constant", "outlier"],
)
def test_equal_sets_agree_exactly(x: Tensor) -> None:
    """Also in another order, and whatever the duplicates."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    for other in (x, x[order]):
        scores = neighbourhood_scores(x, other)
        assert (scores.precision, scores.recall, scores.coverage) == (1.0, 1.0, 1.0)
        assert scores.density >= 1.0


def test_density_of_equal_sets() -> None:
    """Each ball holds its centre and k others."""
    x = normal(50, 6, seed=7)
    assert neighbourhood_scores(x, x).density == pytest.approx(6 / 5, rel=1e-15)
    assert neighbourhood_scores(x, x, k_coverage=9).density == pytest.approx(10 / 9, rel=1e-15)


def test_one_distribution_has_density_and_coverage_as_expected() -> None:
    """E density = 1; E coverage = 1 − (N−1)…(N−k) / (2N−1)…(2N−k), near 1 − 2⁻ᵏ (Naeem et al. 2020)."""
    n, k = 100, 5
    scores = [neighbourhood_scores(*normal(2, n, 4, seed=seed)) for seed in range(40)]
    density, coverage = (torch.tensor(column) for column in list(zip(*scores, strict=True))[2:])
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert abs(float(density.mean()) - 1.0) < 4 * float(density.std()) / 40**0.5
    assert abs(float(coverage.mean()) - expected) < 4 * float(coverage.std()) / 40**0.5


def test_the_sets_swap_precision_and_recall() -> None:
    a, b = normal(60, 5, seed=8), 0.7 * normal(45, 5, seed=9)
    there, back = neighbourhood_scores(a, b), neighbourhood_scores(b, a)
    assert (there.precision, there.recall) == (back.recall, back.precision)


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="k_precision: got 3 with 3 images, need 1 … 2"):
        neighbourhood_scores(normal(9, 2), normal(3, 2))
    with pytest.raises(DataError, match="k_coverage: got 5 with 5 images, need 1 … 4"):
        neighbourhood_scores(normal(5, 2), normal(9, 2))
    with pytest.raises(DataError, match="k_precision: got 0 "):
        neighbourhood_scores(normal(9, 2), normal(9, 2), k_precision=0)
    with pytest.raises(DataError, match="use the same network"):
        neighbourhood_scores(normal(9, 2), normal(9, 3))
    for value in (math.nan, math.inf, 1e200):
        with pytest.raises(DataError, match="not finite"):
            neighbourhood_scores(normal(9, 2), torch.full((9, 2), value, dtype=torch.float64))
