"""Eq. 13: the discretised Gaussian is a distribution, the right one, and finite everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.process import equations as eq
from oracles import decoder

GRID = torch.from_numpy(decoder.GRID)


def log_prob(mean: float, log_var: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """ln p over the 256 values, as a [1, 1, 16, 16] image."""
    x0 = GRID.to(dtype).reshape(1, 1, 16, 16)
    return eq.decoder_log_prob(x0, torch.full_like(x0, mean), log_var).reshape(256)


@pytest.mark.parametrize("sigma", [1e-10, 1e-4, 0.003, 0.05, 0.5, 2.0, 1e3])
@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.3, 0.0, 0.5019, 1.0, 1.5])
def test_sums_to_one_and_matches_scipy(mean: float, sigma: float) -> None:
    """The sum cannot see a wrong cdf, the reference can."""
    log_var = 2 * np.log(sigma)
    actual = log_prob(mean, log_var)
    assert torch.isfinite(actual).all()
    # A bin edge is known to 1e-16, hence its cdf to 1e-16/σ when the mean lies on the edge (mean 0 does).
    tolerance = 1e-12 + 1e-16 / sigma
    assert actual.exp().sum().item() == pytest.approx(1.0, abs=tolerance)
    expected = decoder.log_prob(decoder.GRID, mean, log_var)
    assert actual.exp().numpy() == pytest.approx(np.exp(expected), abs=tolerance)
    # Beyond ln p = −1000 (40 standard deviations) only order of magnitude is asked for.
    inside = expected > -1000
    assert actual.numpy()[inside] == pytest.approx(expected[inside], rel=1e-8, abs=1e-9 + 10 * tolerance)


@pytest.mark.parametrize(("k", "mean", "log_var", "expected"), decoder.GOLDEN)
def test_golden_values(k: int, mean: float, log_var: float, expected: float) -> None:
    """mpmath, 400 digits; far tails included, so a floor under the probability is seen."""
    assert log_prob(mean, log_var)[k].item() == pytest.approx(expected, rel=1e-8)


def test_ends_are_open() -> None:
    """All mass below −1 belongs to the first value, all mass above 1 to the last; half-open edges would lose it."""
    assert log_prob(-3.0, -4.0)[0].exp().item() == pytest.approx(1.0, abs=1e-12)
    assert log_prob(3.0, -4.0)[255].exp().item() == pytest.approx(1.0, abs=1e-12)


def test_symmetry() -> None:
    """Mirroring the data and the mean changes nothing."""
    assert log_prob(0.37, -5.0).flip(0).numpy() == pytest.approx(log_prob(-0.37, -5.0).numpy(), rel=1e-9)


def test_bins_are_two_255ths_wide() -> None:
    """A narrow σ puts half its mass on either side of a bin edge, and all of it inside a bin."""
    edge = decoder.GRID[100] + 1 / 255
    assert log_prob(edge, 2 * np.log(1e-5)).exp()[[100, 101]].numpy() == pytest.approx([0.5, 0.5], abs=1e-6)
    inside = decoder.GRID[100] + 0.9 / 255
    assert log_prob(inside, 2 * np.log(1e-5)).exp()[100].item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("log_var", [-46.0, -20.0, -9.8, -2.0, 13.8])
def test_gradients_are_finite(log_var: float) -> None:
    """With respect to the mean and to a learned variance, for every value of the data."""
    x0 = GRID.reshape(1, 1, 16, 16)
    mean = torch.full_like(x0, 0.2).requires_grad_()
    learned = torch.full_like(x0, log_var).requires_grad_()
    eq.decoder_log_prob(x0, mean, learned).sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(learned.grad).all()


def test_gradient_matches_finite_differences_of_scipy() -> None:
    """Including tails, where a clamped logarithm has gradient zero."""
    x0 = GRID[[0, 40, 120, 130, 255]].reshape(1, 1, 1, 5)
    mean = torch.full_like(x0, 0.0).requires_grad_()
    eq.decoder_log_prob(x0, mean, -4.0).sum().backward()
    step = 1e-5
    numeric = (decoder.log_prob(x0.numpy(), step, -4.0) - decoder.log_prob(x0.numpy(), -step, -4.0)) / (2 * step)
    assert mean.grad.numpy() == pytest.approx(numeric, rel=1e-5)


def test_one_variance_per_image() -> None:
    """log σ² may be [B]-shaped or per pixel."""
    x0 = GRID.reshape(4, 1, 8, 8)
    mean = torch.zeros_like(x0)
    log_var = torch.tensor([-8.0, -4.0, -1.0, 2.0], dtype=torch.float64)
    expected = decoder.log_prob(x0.numpy(), 0.0, log_var.numpy().reshape(4, 1, 1, 1))
    assert eq.decoder_log_prob(x0, mean, log_var).numpy() == pytest.approx(expected, rel=1e-8)
    per_pixel = log_var.reshape(4, 1, 1, 1).expand_as(x0)
    assert eq.decoder_log_prob(x0, mean, per_pixel).numpy() == pytest.approx(expected, rel=1e-8)


def test_float32_is_usable() -> None:
    """Sum to 1 within float32; finite at the paper's σ."""
    actual = log_prob(0.3, constant := -9.8167, torch.float32)
    assert torch.isfinite(actual).all(), constant
    assert actual.exp().sum().item() == pytest.approx(1.0, abs=2e-5)
