"""Eq. 13 where a bin is far narrower than σ, and where the images are float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.process import equations as eq
from oracles import decoder

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def by_quadrature(x0: np.ndarray, mean: float, sigma: float) -> np.ndarray:
    """ln of the integral of the density over a bin: smooth inside a narrow bin, so eight nodes are exact."""
    z = (x0[:, None] + NODES / 255 - mean) / sigma
    middle = (x0 - mean) / sigma
    ratio = (WEIGHTS * np.exp((middle[:, None] ** 2 - z**2) / 2)).sum(1)
    return np.log(ratio / (255 * sigma)) - middle**2 / 2 - np.log(2 * np.pi) / 2


@pytest.mark.parametrize("sigma", [8.0, 10.0, 300.0, 1e4, 1e6])
@pytest.mark.parametrize("distance", [0.0, 0.9, -3.0, 8.0, -12.0, 100.0])
def test_narrow_bins_are_exact(sigma: float, distance: float) -> None:
    """No cancellation of two nearly equal CDFs, and the curvature of the density inside the bin is felt."""
    x0 = decoder.GRID[[1, 60, 128, 254]]
    mean = distance * sigma
    image = torch.from_numpy(x0).reshape(1, 1, 2, 2)
    actual = eq.decoder_log_prob(image, torch.full_like(image, mean), 2 * float(np.log(sigma))).reshape(4).numpy()
    assert actual == pytest.approx(by_quadrature(x0, mean, sigma), rel=0, abs=1e-12 * (1 + distance**2))


@pytest.mark.parametrize("log_var", [-9.8167, -15.0, 3.0])
def test_float32_images_are_judged_in_float64(log_var: float) -> None:
    """Bin edges rounded to float32 would move by 6e-8, which is 1e-5 of σ = e^−5."""
    x0 = torch.from_numpy(decoder.GRID).float().reshape(1, 1, 16, 16)
    mean = x0 + 0.004
    actual = eq.decoder_log_prob(x0, mean, log_var)
    assert actual.dtype == torch.float64
    expected = decoder.log_prob(x0.double().numpy(), mean.double().numpy(), log_var)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)
