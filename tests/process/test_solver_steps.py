"""The deterministic steps: λ, the flow with x_0 held, and the transfer with any ε."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alphabar.process import equations as eq

x, other = (torch.linspace(-2, 3, 6, dtype=torch.float64).reshape(1, 1, 2, 3) * k for k in (1.0, -0.7))
HOPS = [(0.3, 0.5), (1e-5, 0.9), (0.98, 1.0), (0.0, 0.4), (0.0, 1.0)]


@pytest.mark.parametrize(("abar_t", "abar_s"), HOPS)
def test_flow_keeps_the_image_and_the_noise(abar_t: float, abar_s: float) -> None:
    """x_t of a pair (x_0, ε) goes to x_s of the same pair."""
    x_t = abar_t**0.5 * x + (1 - abar_t) ** 0.5 * other
    expected = abar_s**0.5 * x + (1 - abar_s) ** 0.5 * other
    torch.testing.assert_close(eq.flow(x, x_t, abar_t, abar_s), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("abar_t", "abar_s"), [hop for hop in HOPS if hop[0] > 0])
def test_transfer_is_a_straight_line_in_the_ratio_of_noise(abar_t: float, abar_s: float) -> None:
    """x/√ᾱ moves by ε times the change of √((1−ᾱ)/ᾱ), up as well as down."""
    for start, end in ((abar_t, abar_s), (abar_s, abar_t)):
        ratio_start, ratio_end = ((1 - a) ** 0.5 / a**0.5 for a in (start, end))
        expected = end**0.5 * (x / start**0.5 + (ratio_end - ratio_start) * other)
        torch.testing.assert_close(eq.transfer(x, other, start, end), expected, rtol=1e-11, atol=1e-11)


def test_transfer_and_flow_agree_on_a_pair() -> None:
    x_t = eq.q_sample(x, other, 0.3)
    torch.testing.assert_close(eq.transfer(x_t, other, 0.3, 0.8), eq.flow(x, x_t, 0.3, 0.8), rtol=1e-12, atol=1e-12)


def test_half_log_snr() -> None:
    """ln(α/σ), for floats and for one ᾱ per image, with its limits."""
    abar = np.array([1e-9, 0.3, 0.5, 1 - 1e-9])
    expected = np.log(np.sqrt(abar) / np.sqrt(1 - abar))
    np.testing.assert_allclose([eq.half_log_snr(float(a)) for a in abar], expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(eq.half_log_snr(torch.from_numpy(abar)).numpy(), expected, rtol=1e-12, atol=1e-15)
    assert (eq.half_log_snr(0.0), eq.half_log_snr(1.0)) == (-math.inf, math.inf)
