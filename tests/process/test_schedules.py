"""Every schedule is a decreasing ᾱ from 1; the published ones have the published numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alphabar as ab
from oracles import constants

FAMILIES = {
    "linear": lambda T: ab.schedules.Linear(T=T),
    "quadratic": lambda T: ab.schedules.Quadratic(T=T),
    "constant": lambda T: ab.schedules.Constant(T=T, beta=0.02),
    "warmup10": lambda T: ab.schedules.Warmup10(T=T),
    "warmup50": lambda T: ab.schedules.Warmup50(T=T),
    "jsd": lambda T: ab.schedules.JSD(T=T),
    "cosine": lambda T: ab.schedules.Cosine(T=T),
    "sigmoid": lambda T: ab.schedules.Sigmoid(T=T),
}


def build(spec: object) -> ab.Schedule:
    """Build without the warning that short chains do not reach the prior."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ab.AlphabarWarning)
        return spec.build()


def betas(schedule: ab.Schedule) -> np.ndarray:
    """β_1 … β_T."""
    abar = schedule.alpha_bar.numpy()
    return 1.0 - abar[1:] / abar[:-1]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(T=st.integers(1, 1200))
def test_invariants(family: str, T: int) -> None:
    """ᾱ_0 = 1 exactly, strictly inside the unit interval and decreasing after, float64, length T + 1."""
    schedule = build(FAMILIES[family](T))
    abar = schedule.alpha_bar
    assert (schedule.T, abar.shape, abar.dtype) == (T, (T + 1,), torch.float64)
    assert abar[0].item() == 1.0
    assert (abar[1:] < abar[:-1]).all()
    assert (abar >= 0).all()
    assert torch.isfinite(abar).all()


@pytest.mark.parametrize(("t", "expected"), constants.LINEAR_ABAR.items())
def test_linear_constants(t: int, expected: float) -> None:
    """The paper's schedule to twelve digits."""
    assert build(ab.schedules.Linear(T=1000)).alpha_bar[t].item() == pytest.approx(expected, rel=2e-12)


def test_linear_is_linear_in_beta() -> None:
    """β from 1e-4 to 0.02, both ends included."""
    assert betas(build(ab.schedules.Linear(T=1000))) == pytest.approx(np.linspace(1e-4, 0.02, 1000), rel=1e-10)
    explicit = build(ab.schedules.Linear(T=10, beta_1=0.02, beta_T=0.5))
    assert betas(explicit) == pytest.approx(np.linspace(0.02, 0.5, 10), rel=1e-12)


def test_first_posterior_variance() -> None:
    """β̃_2, the floor that the last hop uses."""
    abar = build(ab.schedules.Linear(T=1000)).alpha_bar
    tilde = float(ab.equations.beta_tilde(abar[2].item(), abar[1].item()))
    assert tilde == pytest.approx(constants.LINEAR_BETA_TILDE_2, rel=1e-8)
    assert np.log(tilde) == pytest.approx(constants.LINEAR_LOG_BETA_TILDE_2, rel=1e-12)


def test_linear_ends_scale_with_length() -> None:
    """Ends times 1000/T, so that ᾱ_T hardly depends on T; the larger end capped at 0.999, β still linear."""
    assert betas(build(ab.schedules.Linear(T=250))) == pytest.approx(np.linspace(4e-4, 0.08, 250), rel=1e-10)
    capped = betas(build(ab.schedules.Linear(T=10)))
    assert capped == pytest.approx(np.linspace(0.01, 0.999, 10), rel=1e-9)


def test_quadratic() -> None:
    """Linear in √β."""
    expected = np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2
    assert betas(build(ab.schedules.Quadratic(T=1000))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("family", ["Linear", "Quadratic", "Warmup10", "Warmup50"])
@pytest.mark.parametrize("last", [0.3, 0.9995])
def test_given_ends_are_used_as_given(family: str, last: float) -> None:
    """Also above 0.999, where ends that are scaled stop."""
    found = betas(build(getattr(ab.schedules, family)(T=30, beta_1=1e-3, beta_T=last)))
    assert found[[0, -1]] == pytest.approx([1e-3, last], rel=1e-9)


@pytest.mark.parametrize(("family", "fraction"), [("warmup10", 0.1), ("warmup50", 0.5)])
def test_warmup(family: str, fraction: float) -> None:
    """Linear over the first part, then constant at the larger end (Ho et al.'s released ``get_beta_schedule``)."""
    expected = np.full(1000, 0.02)
    rising = int(1000 * fraction)
    expected[:rising] = np.linspace(1e-4, 0.02, rising)
    assert betas(build(FAMILIES[family](1000))) == pytest.approx(expected, rel=1e-9)


def test_constant() -> None:
    """ᾱ_t = (1−β)^t."""
    abar = build(ab.schedules.Constant(T=100, beta=0.05)).alpha_bar.numpy()
    assert abar == pytest.approx(0.95 ** np.arange(101), rel=1e-12)


def test_jsd() -> None:
    """β_t = 1/(T−t+1): the signal shrinks by equal amounts, ᾱ_t = 1 − t/T (the very end may be capped)."""
    abar = build(ab.schedules.JSD(T=50)).alpha_bar.numpy()
    assert abar[:-1] == pytest.approx(1.0 - np.arange(50) / 50, rel=1e-9)
    assert abar[-1] < 1e-3


def test_cosine() -> None:
    """Published numbers and the definition, away from the capped end."""
    schedule = build(ab.schedules.Cosine(T=1000))
    beta = betas(schedule)
    assert beta[0] == pytest.approx(constants.COSINE_1000["beta_1"], rel=1e-8)
    assert beta[-1] == pytest.approx(constants.COSINE_1000["beta_T"], rel=1e-9)
    assert schedule.alpha_bar[500].item() == pytest.approx(constants.COSINE_1000["abar_500"], rel=1e-8)
    assert schedule.alpha_bar[-1].item() == pytest.approx(constants.COSINE_1000["abar_T"], rel=5e-6)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert schedule.alpha_bar.numpy()[:999] == pytest.approx(f[:999] / f[0], rel=1e-9)
    long = build(ab.schedules.Cosine(T=4000))
    assert betas(long)[0] == pytest.approx(constants.COSINE_4000["beta_1"], rel=1e-8)
    assert long.alpha_bar[-1].item() == pytest.approx(constants.COSINE_4000["abar_T"], rel=5e-6)


def test_sigmoid() -> None:
    """(σ(end/τ) − σ((t/T·(end−start)+start)/τ)) / (σ(end/τ) − σ(start/τ)) (Jabri et al. 2022), away from the end."""

    def logistic(x: np.ndarray | float) -> np.ndarray | float:
        return 1.0 / (1.0 + np.exp(-x))

    u = np.arange(1001) / 1000
    expected = (logistic(3.0) - logistic(u * 6.0 - 3.0)) / (logistic(3.0) - logistic(-3.0))
    abar = build(ab.schedules.Sigmoid(T=1000)).alpha_bar.numpy()
    assert abar[:990] == pytest.approx(expected[:990], rel=1e-9)
    assert abar[-1] < 1e-3


def test_from_betas_and_from_alpha_bar_are_inverse() -> None:
    """A product and its ratios, float64, through the class and through the families."""
    beta = torch.linspace(0.02, 0.5, 10, dtype=torch.float64)
    schedule = ab.Schedule.from_betas(beta)
    expected = np.concatenate([[1.0], np.cumprod(1.0 - beta.numpy())])
    assert schedule.alpha_bar.numpy() == pytest.approx(expected, rel=1e-14)
    assert ab.Schedule.from_alpha_bar(schedule.alpha_bar).alpha_bar.equal(schedule.alpha_bar)
    assert build(ab.schedules.FromBetas(tuple(beta.tolist()))).alpha_bar.numpy() == pytest.approx(expected, rel=1e-14)
    assert build(ab.schedules.FromAlphaBar(tuple(expected.tolist()))).alpha_bar.numpy() == pytest.approx(expected)


def test_a_short_chain_that_leaves_signal_warns() -> None:
    """ᾱ_T > 1e-3 contradicts starting from N(0, I)."""
    with pytest.warns(ab.AlphabarWarning):
        ab.schedules.Linear(T=10, beta_1=1e-4, beta_T=0.02).build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.schedules.Linear(T=1000).build()


@pytest.mark.parametrize("values", [[1.0, 0.5, 0.6], [1.0, 1.2], [1.0, -0.1], [1.0, float("nan")]])
def test_impossible_tables_are_refused(values: list[float]) -> None:
    """ᾱ must not rise, leave [0, 1] or be NaN."""
    with pytest.raises((ValueError, ab.AlphabarError)):
        ab.Schedule.from_alpha_bar(torch.tensor(values, dtype=torch.float64))
