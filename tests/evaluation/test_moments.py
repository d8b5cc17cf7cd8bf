"""Moments of features against numpy, whole and in shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.base.errors import DataError
from alphabar.evaluation import moments
from alphabar.evaluation.moments import Moments


def features(n: int, dims: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn((dims, dims), generator=generator, dtype=torch.float64)
    return torch.randn((n, dims), generator=generator, dtype=torch.float64) @ mix + 3.0


def assert_same(a: Moments, b: Moments, tolerance: float = 1e-13) -> None:
    assert a.n == b.n
    assert (a.mean - b.mean).abs().max() <= tolerance * (1 + b.mean.abs().max())
    assert (a.scatter - b.scatter).abs().max() <= tolerance * (1 + b.scatter.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "dims"), [(2, 1), (2, 7), (40, 7), (500, 3)])
def test_moments_are_those_of_numpy(n: int, dims: int, dtype: torch.dtype) -> None:
    x = features(n, dims).to(dtype)
    found = Moments.of(x)
    wide = x.double().numpy()
    assert found.n == n and found.mean.dtype == found.scatter.dtype == torch.float64
    assert found.mean.numpy() == pytest.approx(wide.mean(0), rel=1e-13)
    assert found.covariance.numpy() == pytest.approx(np.cov(wide, rowvar=False).reshape(dims, dims), rel=1e-11)


@given(st.lists(st.integers(0, 30), max_size=4))
def test_shards_add_up(cuts: list[int]) -> None:
    """In any number of shards, of any size, also empty ones, in any order."""
    x = features(30, 4)
    shards = [Moments.of(part) for part in x.tensor_split(sorted(cuts))]
    total = shards[-1]
    for shard in shards[:-1]:
        total = total + shard
    assert_same(total, Moments.of(x))


def test_an_empty_shard_changes_nothing() -> None:
    nothing, some = Moments.of(torch.zeros(0, 4)), Moments.of(features(9, 4))
    assert nothing.n == 0 and not nothing.mean.any() and not nothing.scatter.any()
    assert (nothing + nothing).n == 0 and not (nothing + nothing).mean.any()
    for total in (nothing + some, some + nothing):
        assert total.n == 9 and torch.equal(total.mean, some.mean) and torch.equal(total.scatter, some.scatter)


def test_long_inputs_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(50, 4)
    whole = Moments.of(x)
    monkeypatch.setattr(moments, "ROWS", 7)
    assert_same(Moments.of(x), whole)


@pytest.mark.parametrize(("offset", "digits"), [(1e6, 1e-10), (-1e9, 1e-7)])
def test_a_large_common_offset_is_harmless(offset: float, digits: float) -> None:
    """Σ x² − n x̄² would keep four digits at 1e6 and none at 1e9; means of shards keep as many as float64 gives them."""
    x = features(4000, 5) + offset
    near = x - offset  # exact: what remains of the noise beside the offset
    found = Moments.of(x[:1234]) + Moments.of(x[1234:])
    expected = np.cov(near.numpy(), rowvar=False)
    assert found.covariance.numpy() == pytest.approx(expected, abs=digits * expected.max())
    assert found.mean.numpy() == pytest.approx(near.numpy().mean(0) + offset, rel=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_equal_images_have_no_scatter(value: float) -> None:
    found = Moments.of(torch.full((777, 3), value))
    assert found.scatter.abs().max() <= 1e-30 * (1 + value**2)
    assert found.mean.numpy() == pytest.approx(float(torch.tensor(value)), rel=1e-15)


@pytest.mark.parametrize("n", [0, 1])
def test_a_covariance_needs_two_images(n: int) -> None:
    with pytest.raises(DataError, match=rf"got {n} image\(s\), need 2 or more"):
        _ = Moments.of(torch.zeros(n, 3)).covariance


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.uint8)])
def test_only_matrices_of_floats_have_moments(wrong: torch.Tensor) -> None:
    with pytest.raises(DataError, match="need floats of shape"):
        Moments.of(wrong)


def test_shards_of_different_networks_do_not_add() -> None:
    with pytest.raises(DataError, match="of 3 and of 4 dimensions"):
        _ = Moments.of(torch.zeros(2, 3)) + Moments.of(torch.zeros(2, 4))
