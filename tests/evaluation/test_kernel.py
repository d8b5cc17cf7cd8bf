"""The kernel distance against double sums, exact expectations, torchmetrics and the spread of repeated estimates."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from alphabar.base.errors import DataError
from alphabar.evaluation import kernel
from alphabar.evaluation.kernel import kernel_distance
from oracles import metrics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m", "dims"), [(2, 2, 1), (2, 9, 3), (13, 13, 4), (40, 21, 7)])
def test_value_is_the_double_sum(n: int, m: int, dims: int) -> None:
    a, b = normal(n, dims, seed=1), 0.5 * normal(m, dims, seed=2) + 0.3
    assert kernel_distance(a, b).value == pytest.approx(metrics.squared_mmd(a.numpy(), b.numpy()), rel=1e-11)


@pytest.mark.parametrize(("n", "m", "groups"), [(3, 8, 3), (7, 5, 5), (23, 41, 10)])
def test_error_is_the_jackknife_computed_anew(n: int, m: int, groups: int) -> None:
    a, b = normal(n, 4, seed=3), normal(m, 4, seed=4) + 0.5
    expected = metrics.jackknife_error(a.numpy(), b.numpy(), groups)
    assert kernel_distance(a, b).standard_error == pytest.approx(expected, rel=1e-10)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(37, 3, seed=5), normal(52, 3, seed=6)
    whole = kernel_distance(a, b)
    monkeypatch.setattr(kernel, "ROWS", 2)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-11)


def test_each_kernel_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both orders inside a group, one order between groups: the jackknife costs nothing more."""
    counts = []
    inner = kernel._kernel

    def counted(x: Tensor, y: Tensor) -> Tensor:
        counts.append(len(x) * len(y))
        return inner(x, y)

    monkeypatch.setattr(kernel, "_kernel", counted)
    kernel_distance(normal(30, 2), normal(20, 2))
    within = [10 * size**2 + 45 * size**2 for size in (3, 2)]
    assert sum(counts) == sum(within) + 30 * 20


def test_sums_that_were_kept_stand_for_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all real images they take almost all of the time."""
    a, b = normal(30, 2, seed=1), normal(47, 2, seed=2)
    whole, kept = kernel_distance(a, b), kernel.within(b, 10)
    asked = []
    monkeypatch.setattr(kernel, "within", lambda x, groups, inner=kernel.within: asked.append(x) or inner(x, groups))
    assert kernel_distance(a, b, lambda groups: kept if groups == 10 else None) == whole
    assert [x.shape for x in asked] == [a.shape]


@pytest.mark.parametrize("q", [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
def test_expectation_is_the_distance_of_the_distributions(q: list[float]) -> None:
    """Every draw of 2 against 3 points, weighted by its probability; 0 if the distributions are equal."""
    points, p = normal(3, 2, seed=7), np.array([0.2, 0.3, 0.5])
    expectation = 0.0
    for i, j in product(product(range(3), repeat=2), product(range(3), repeat=3)):
        weight = np.prod(p[list(i)]) * np.prod(np.array(q)[list(j)])
        expectation += weight * kernel_distance(points[list(i)], points[list(j)]).value
    exact = metrics.population_mmd(points.numpy(), p, np.array(q))
    assert expectation == pytest.approx(exact, abs=1e-13)
    assert (exact == 0.0) == (q == p.tolist())


def test_splits_average_to_the_whole() -> None:
    """The mean over disjoint splits, which other tools print, estimates the same number, less precisely."""
    a, b = normal(2000, 5, seed=8), 1.1 * normal(2000, 5, seed=9)
    splits = torch.tensor([kernel_distance(x, y).value for x, y in zip(a.split(20), b.split(20), strict=True)])
    error = float(splits.std() / len(splits) ** 0.5)
    whole = kernel_distance(a, b)
    assert abs(float(splits.mean()) - whole.value) < 3.5 * error
    assert whole.standard_error < error


def test_sets_of_one_distribution_are_at_zero_on_average() -> None:
    values = torch.tensor(
        [kernel_distance(*normal(2, 30, 4, seed=seed)).value for seed in range(150)], dtype=torch.float64
    )
    assert (values < 0).any()
    assert abs(values.mean()) < 3.5 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize(("shift", "least", "most"), [(1.0, 0.8, 1.25), (0.0, 1.0, 1.8)])
def test_standard_error_is_the_spread_of_repetitions(shift: float, least: float, most: float) -> None:
    """Right where the distributions differ; on the large side where they do not."""
    found = [kernel_distance(normal(60, 4, seed=seed), normal(60, 4, seed=seed + 5000) + shift) for seed in range(120)]
    values, errors = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    assert least < float(errors.square().mean().sqrt() / values.std()) < most


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_torchmetrics_says_the_same() -> None:
    a, b = normal(80, 6, seed=10), normal(80, 6, seed=11) + 0.2
    other = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=80)
    other.update(a, real=True)
    other.update(b, real=False)
    assert kernel_distance(a, b).value == pytest.approx(float(other.compute()[0]), rel=1e-10)


def test_sums_are_float64() -> None:
    """Large features of nearly equal sets, where float32 sums would keep no digit."""
    a = (normal(50, 8, seed=12) + 30).float()
    b = a + 0.01
    assert kernel_distance(a, b).value == pytest.approx(
        metrics.squared_mmd(a.double().numpy(), b.double().numpy()), rel=1e-4
    )


def test_two_images_have_no_standard_error() -> None:
    assert math.isnan(kernel_distance(normal(2, 3), normal(9, 3)).standard_error)
    assert math.isfinite(kernel_distance(normal(3, 3), normal(9, 3)).standard_error)


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="got 1 and 5 images, need 2 or more"):
        kernel_distance(normal(1, 3), normal(5, 3))
    with pytest.raises(DataError, match="use the same network"):
        kernel_distance(normal(5, 3), normal(5, 4))
    for value in (math.nan, math.inf, 1e200):
        with pytest.raises(DataError, match="not finite"):
            kernel_distance(normal(5, 3), torch.full((5, 3), value, dtype=torch.float64))
