"""The oracles checked against each other and against numbers computed elsewhere, before they judge anything."""

from __future__ import annotations

import numpy as np
import pytest

from oracles import decoder
from oracles.discrete import Atoms
from oracles.gaussian import Gaussian, condition, hop_variances, sigma_points
from oracles.sinusoid import DIFFUSERS_SLICE, sinusoid

ABARS = [*np.cumprod(1.0 - np.linspace(0.02, 0.5, 10))[::-1], 1.0]
DATA = Gaussian(np.array([0.3, -0.5, 0.0, 1.0]), np.array([4.0, 1.0, 0.25, 0.01]))
ATOMS = Atoms(decoder.GRID[[30, 100, 140, 220]], np.array([0.1, 0.2, 0.3, 0.4]))


def test_conditioning_is_the_published_posterior() -> None:
    """The Kalman form and Eq. 7's coefficients are the same numbers."""
    for abar_t, abar_s in [(0.3, 0.5), (1e-5, 0.9), (0.98, 1.0)]:
        beta, alpha = 1.0 - abar_t / abar_s, abar_t / abar_s
        on_x0, on_x_t, var = condition(abar_t, abar_s)
        assert on_x0 == pytest.approx(abar_s**0.5 * beta / (1 - abar_t), rel=1e-12)
        assert on_x_t == pytest.approx(alpha**0.5 * (1 - abar_s) / (1 - abar_t), rel=1e-12)
        assert var == pytest.approx((1 - abar_s) / (1 - abar_t) * beta, rel=1e-12)


def test_ancestral_moments_reproduce_the_research_table() -> None:
    """V_0 / λ on the amplified schedule, measured by an unrelated prototype (exactness B1)."""
    small = DATA.ancestral_moments(ABARS, hop_variances(ABARS, "small"))[-1][1] / DATA.var
    large = DATA.ancestral_moments(ABARS, hop_variances(ABARS, "large"))[-1][1] / DATA.var
    assert small == pytest.approx([0.718, 0.689, 0.599, 0.263], abs=6e-4)
    assert large == pytest.approx([0.858, 0.980, 1.124, 0.977], abs=6e-4)


def test_ddim_moments_agree_with_the_closed_product() -> None:
    """Two derivations of deterministic DDIM."""
    mean, var = DATA.ddim_moments(ABARS, 0.0)[-1]
    assert DATA.ddim_map(ABARS, np.zeros(4)) == pytest.approx(mean, abs=1e-13)
    assert (DATA.ddim_map(ABARS, np.ones(4)) - mean) ** 2 == pytest.approx(var, abs=1e-13)


def test_the_bound_of_standard_normal_data_is_its_entropy() -> None:
    """σ² = β is exact for N(0, I), so the bound is tight for every schedule."""
    normal = Gaussian(np.zeros(3), np.ones(3))
    for abars in (ABARS, [*np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))[::-1], 1.0]):
        variances = hop_variances(abars, "large", floor=1.0 - abars[-2])
        inner = sum(normal.kl_term(*hop) for hop in list(zip(abars, abars[1:], variances, strict=False))[:-1])
        total = normal.prior_kl(abars[0]) + inner + normal.decoder_density_nats(abars[-2], variances[-1])
        assert total == pytest.approx(normal.entropy(), abs=1e-11)


def test_optimal_variance_limits() -> None:
    """β̃ for a point, β for unit variance."""
    reverse = Gaussian(np.zeros(2), np.array([0.0, 1.0])).optimal_reverse_var(ABARS[3], ABARS[4])
    assert reverse[0] == pytest.approx(condition(ABARS[3], ABARS[4])[2], abs=1e-15)
    assert reverse[1] == pytest.approx(1.0 - ABARS[3] / ABARS[4], abs=1e-15)


def test_sigma_points_have_exact_moments() -> None:
    """Mean 0 and covariance I over the stacked pair."""
    stacked = np.concatenate(sigma_points(4), axis=1)
    assert stacked.mean(0) == pytest.approx(np.zeros(8), abs=1e-15)
    assert stacked.T @ stacked / len(stacked) == pytest.approx(np.eye(8), abs=1e-14)


def test_one_atom_is_a_gaussian_of_variance_zero() -> None:
    """Discrete and Gaussian oracles meet where both apply."""
    atom, point = Atoms(np.array([decoder.GRID[90]]), np.ones(1)), Gaussian(decoder.GRID[[90]], np.zeros(1))
    for kind in ("small", "large"):
        hop = (ABARS[4], ABARS[5], hop_variances(ABARS, kind)[4])
        assert atom.kl_term(*hop) == pytest.approx(point.kl_term(*hop), abs=1e-14)
    assert atom.prior_kl(0.04) == pytest.approx(point.prior_kl(0.04), abs=1e-15)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_bound_exceeds_likelihood_exceeds_entropy(kind: str) -> None:
    """Bound ≥ true NLL ≥ entropy; the pmf sums to one; the transfer grid has converged."""
    variances = hop_variances(ABARS, kind)
    pmf = ATOMS.model_pmf(ABARS, variances)
    assert pmf.sum() == pytest.approx(1.0, abs=1e-10)
    assert ATOMS.model_pmf(ABARS, variances, points=801) == pytest.approx(pmf, abs=1e-9)
    assert ATOMS.bound_nats(ABARS, variances) > ATOMS.nll_nats(ABARS, variances) > ATOMS.entropy()


@pytest.mark.parametrize(("k", "mean", "log_var", "expected"), decoder.GOLDEN)
def test_decoder_against_mpmath(k: int, mean: float, log_var: float, expected: float) -> None:
    """Both tails, both open ends, narrow and wide σ."""
    assert decoder.log_prob(decoder.GRID[k], mean, log_var) == pytest.approx(expected, rel=1e-9)


def test_sinusoid_matches_diffusers() -> None:
    """The published 3×3 slice."""
    assert sinusoid(np.arange(128), 64)[23:26, 47:50] == pytest.approx(np.array(DIFFUSERS_SLICE), abs=1e-4)
