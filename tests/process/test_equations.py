"""The paper's equations against Bayes' rule, injected impulses and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import alphabar as ab
from alphabar.process import equations as eq
from oracles import constants
from oracles.gaussian import Gaussian, condition

ABARS = st.tuples(st.floats(1e-5, 0.9), st.floats(0.01, 0.99)).map(
    lambda pair: (pair[0], pair[0] + pair[1] * (1 - pair[0]))
)
x0 = torch.tensor([[[[0.3, -0.9], [1.0, 0.0]]], [[[-1.0, 0.5], [0.2, 0.7]]]], dtype=torch.float64)
eps = torch.tensor([[[[1.3, -0.4], [0.1, 2.0]]], [[[-0.6, 0.8], [-2.2, 0.05]]]], dtype=torch.float64)
UNIT, ZERO = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@given(ABARS)
def test_eq4_impulses(abars: tuple[float, float]) -> None:
    """x_t has mean √ᾱ_t x0 and variance 1 − ᾱ_t: read off the response to each input alone."""
    abar_t, _ = abars
    assert eq.q_sample(UNIT, ZERO, abar_t).item() == pytest.approx(np.exp(0.5 * np.log(abar_t)), rel=1e-12)
    assert eq.q_sample(ZERO, UNIT, abar_t).item() ** 2 == pytest.approx(1.0 - abar_t, rel=1e-12)


@given(ABARS)
def test_eq2_composes_to_eq4(abars: tuple[float, float]) -> None:
    """A hop to s followed by a hop to t has the law of a hop to t: same mean, variances add."""
    abar_t, abar_s = abars
    on_x0 = eq.q_step(eq.q_sample(UNIT, ZERO, abar_s), ZERO, abar_t, abar_s).item()
    early = eq.q_step(eq.q_sample(ZERO, UNIT, abar_s), ZERO, abar_t, abar_s).item()
    late = eq.q_step(ZERO, UNIT, abar_t, abar_s).item()
    assert on_x0 == pytest.approx(abar_t**0.5, rel=1e-12)
    assert early**2 + late**2 == pytest.approx(1.0 - abar_t, rel=1e-12)


def test_eq2_is_the_papers_kernel() -> None:
    """One step: √(1−β) x + √β ε."""
    abar_s = 0.7
    close(eq.q_step(x0, eps, abar_s * (1 - 0.02), abar_s), (1 - 0.02) ** 0.5 * x0 + 0.02**0.5 * eps)


@given(ABARS)
def test_eq7_is_bayes(abars: tuple[float, float]) -> None:
    """Mean and variance of q(x_s|x_t,x0) by conditioning a joint Gaussian."""
    abar_t, abar_s = abars
    on_x0, on_x_t, var = condition(abar_t, abar_s)
    assert eq.posterior(UNIT, ZERO, abar_t, abar_s).item() == pytest.approx(on_x0, rel=1e-10)
    assert eq.posterior(ZERO, UNIT, abar_t, abar_s).item() == pytest.approx(on_x_t, rel=1e-10)
    assert float(eq.beta_tilde(abar_t, abar_s)) == pytest.approx(var, rel=1e-10)
    assert float(eq.beta(abar_t, abar_s)) == pytest.approx(1.0 - abar_t / abar_s, rel=1e-12)


def test_posteriors_compose() -> None:
    """t → u → s given x0 is t → s given x0."""
    abar_t, abar_u, abar_s = 0.1, 0.45, 0.8
    x_t = eq.q_sample(x0, eps, abar_t)
    close(
        eq.posterior(x0, eq.posterior(x0, x_t, abar_t, abar_u), abar_u, abar_s), eq.posterior(x0, x_t, abar_t, abar_s)
    )
    slope = eq.posterior(ZERO, UNIT, abar_u, abar_s).item()
    composed = slope**2 * float(eq.beta_tilde(abar_t, abar_u)) + float(eq.beta_tilde(abar_u, abar_s))
    assert composed == pytest.approx(float(eq.beta_tilde(abar_t, abar_s)), rel=1e-12)


def test_posterior_at_the_data_is_the_data() -> None:
    """s = 0: the posterior is a point."""
    x_t = eq.q_sample(x0, eps, 0.9)
    close(eq.posterior(x0, x_t, 0.9, 1.0), x0)
    assert float(eq.beta_tilde(0.9, 1.0)) == 0.0


@given(ABARS)
def test_eq11_is_eq7_after_eq15(abars: tuple[float, float]) -> None:
    """And both are the formula as printed."""
    abar_t, abar_s = abars
    x_t = eq.q_sample(x0, eps, abar_t)
    alpha = abar_t / abar_s
    expected = (x_t - (1 - alpha) / (1 - abar_t) ** 0.5 * eps) / alpha**0.5
    close(eq.mean_from_eps(x_t, eps, abar_t, abar_s), expected, 1e-9)
    close(eq.posterior(eq.x0_from_eps(x_t, eps, abar_t), x_t, abar_t, abar_s), expected, 1e-9)


@given(ABARS)
def test_changes_of_variable_recover_the_truth(abars: tuple[float, float]) -> None:
    """From (x0, ε) to x_t and any one of ε, x0, v, score, μ̃, back to the others."""
    abar_t, abar_s = abars
    x_t = eq.q_sample(x0, eps, abar_t)
    v = eq.v_from(x0, eps, abar_t)
    close(v, abar_t**0.5 * eps - (1 - abar_t) ** 0.5 * x0)
    close(eq.x0_from_eps(x_t, eps, abar_t), x0, 1e-10)
    close(eq.eps_from_x0(x_t, x0, abar_t), eps, 1e-10)
    close(eq.x0_from_v(x_t, v, abar_t), x0, 1e-10)
    close(eq.eps_from_v(x_t, v, abar_t), eps, 1e-10)
    close(eq.x0_from_mean(eq.posterior(x0, x_t, abar_t, abar_s), x_t, abar_t, abar_s), x0, 1e-7)


def test_score_is_the_gradient_of_the_log_density() -> None:
    """∇ ln q(x_t) = −E[ε|x_t]/√(1−ᾱ_t): Gaussian data, where the density is known."""
    data, abar = Gaussian(np.array([0.4]), np.array([2.0])), 0.6
    slope, offset = data.eps_coefficients(abar)
    x_t = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1, 1)
    score = eq.score_from_eps(slope[0] * x_t + offset[0], abar)
    close(score, -(x_t - abar**0.5 * 0.4) / data.marginal_var(abar)[0])
    close(eq.eps_from_score(score, abar), slope[0] * x_t + offset[0])


def test_tensor_coefficients_treat_rows_separately() -> None:
    """One coefficient per image gives what floats give image by image, in float64."""
    abar_t, abar_s = torch.tensor([0.2, 0.6], dtype=torch.float64), torch.tensor([0.5, 1.0], dtype=torch.float64)
    log_var = torch.tensor([-3.0, -1.0], dtype=torch.float64)
    calls = [
        lambda i, t, s, w: eq.q_step(x0[i], eps[i], t, s),
        lambda i, t, s, w: eq.q_sample(x0[i], eps[i], t),
        lambda i, t, s, w: eq.posterior(x0[i], eps[i], t, s),
        lambda i, t, s, w: eq.x0_from_eps(x0[i], eps[i], t),
        lambda i, t, s, w: eq.eps_from_x0(x0[i], eps[i], t),
        lambda i, t, s, w: eq.v_from(x0[i], eps[i], t),
        lambda i, t, s, w: eq.x0_from_v(x0[i], eps[i], t),
        lambda i, t, s, w: eq.eps_from_v(x0[i], eps[i], t),
        lambda i, t, s, w: eq.score_from_eps(eps[i], t),
        lambda i, t, s, w: eq.eps_from_score(eps[i], t),
        lambda i, t, s, w: eq.mean_from_eps(x0[i], eps[i], t, s),
        lambda i, t, s, w: eq.x0_from_mean(x0[i], eps[i], t, s),
        lambda i, t, s, w: eq.prior_kl(x0[i], t),
        lambda i, t, s, w: torch.as_tensor(eq.beta(t, s), dtype=torch.float64).reshape(-1),
        lambda i, t, s, w: torch.as_tensor(eq.beta_tilde(t, s), dtype=torch.float64).reshape(-1),
        lambda i, t, s, w: torch.as_tensor(eq.snr(t), dtype=torch.float64).reshape(-1),
        lambda i, t, s, w: torch.as_tensor(eq.mean_weight(w), dtype=torch.float64).reshape(-1),
        lambda i, t, s, w: torch.as_tensor(eq.bound_weight(t, s, w), dtype=torch.float64).reshape(-1),
    ]
    for call in calls:
        together = call(slice(None), abar_t, abar_s, log_var)
        assert together.dtype == torch.float64
        for i in range(2):
            alone = call(slice(i, i + 1), abar_t[i].item(), abar_s[i].item(), log_var[i].item())
            close(together[i : i + 1], alone)


def test_precision_follows_the_image() -> None:
    """float64 coefficients do not promote float32 images."""
    abar = torch.tensor([0.2, 0.6], dtype=torch.float64)
    assert eq.q_sample(x0.float(), eps.float(), abar).dtype == torch.float32
    assert eq.q_sample(x0, eps, abar).dtype == torch.float64


def test_weights_of_eq8_and_eq12() -> None:
    """1/2σ², and β²/(2σ²α(1−ᾱ)) from its definition: squared mean error per squared ε error."""
    assert float(eq.mean_weight(np.log(0.3))) == pytest.approx(1 / 0.6, rel=1e-12)
    abar_t, abar_s, log_var = 0.3, 0.5, -2.0
    per_eps = eq.mean_from_eps(ZERO, UNIT, abar_t, abar_s).item()
    expected = per_eps**2 * float(eq.mean_weight(log_var))
    assert float(eq.bound_weight(abar_t, abar_s, log_var)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("t", "expected"), constants.EQ12_WEIGHT.items())
def test_eq12_on_the_papers_schedule(t: int, expected: float) -> None:
    """Published weights with σ² = β."""
    abar = ab.schedules.Linear(T=1000).build().alpha_bar
    abar_t, abar_s = abar[t].item(), abar[t - 1].item()
    weight = eq.bound_weight(abar_t, abar_s, np.log(1 - abar_t / abar_s))
    assert float(weight) == pytest.approx(expected, rel=5e-6)


def test_eq14_is_a_mean_over_dimensions_per_image() -> None:
    """Not a sum, not a mean over the batch."""
    close(eq.simple_loss(eps, x0), torch.from_numpy(((eps - x0).numpy() ** 2).reshape(2, -1).mean(1)))


def test_snr() -> None:
    """ᾱ/(1−ᾱ)."""
    assert float(eq.snr(0.2)) == pytest.approx(0.25, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 2), st.floats(-3, 1), st.floats(-2, 2), st.floats(-3, 1))
def test_kl_by_quadrature(mean1: float, log_var1: float, mean2: float, log_var2: float) -> None:
    """KL(first ‖ second) in nats: ∫ p ln p/q."""
    x = mean1 + np.exp(0.5 * log_var1) * np.linspace(-10, 10, 2001)
    p, q = norm(mean1, np.exp(0.5 * log_var1)), norm(mean2, np.exp(0.5 * log_var2))
    expected = np.sum(p.pdf(x) * (p.logpdf(x) - q.logpdf(x))) * (x[1] - x[0])
    as_image = lambda value: torch.full((1, 1, 1, 1), value, dtype=torch.float64)  # noqa: E731
    actual = eq.kl_normal(as_image(mean1), log_var1, as_image(mean2), log_var2)
    assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-10)
    actual = eq.kl_normal(as_image(mean1), as_image(log_var1), as_image(mean2), as_image(log_var2))
    assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_prior_kl_is_the_kl_to_the_standard_normal() -> None:
    """L_T from its definition, elementwise; and near-total noise does not cancel to zero."""
    expected = eq.kl_normal(0.3**0.5 * x0, np.log(0.7), torch.zeros_like(x0), 0.0)
    close(eq.prior_kl(x0, 0.3), expected)
    tiny = 1e-12
    expected = 0.5 * tiny * x0**2 + 0.25 * tiny**2
    torch.testing.assert_close(eq.prior_kl(x0, tiny), expected, rtol=1e-3, atol=1e-16)


@pytest.mark.parametrize(("second_moment", "expected"), constants.LINEAR_PRIOR_BITS_PER_DIM.items())
def test_prior_kl_on_the_papers_schedule(second_moment: float, expected: float) -> None:
    """L_T ≈ 1e-5 bits/dim, as section 4 says."""
    abar_T = ab.schedules.Linear(T=1000).build().alpha_bar[-1].item()
    image = torch.full((1, 3, 2, 2), second_moment**0.5, dtype=torch.float64)
    assert eq.prior_kl(image, abar_T).mean().item() / np.log(2) == pytest.approx(expected, rel=6e-3)
