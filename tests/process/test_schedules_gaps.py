"""What a table says about β, tables of one's own, and the settings of the cosine and sigmoid schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import alphabar as ab


def test_betas_are_those_the_table_was_made_of() -> None:
    """Entry 0 is β_1."""
    given = [0.02, 0.3, 0.1, 0.9]
    assert ab.Schedule.from_betas(given).betas.numpy() == pytest.approx(given, rel=1e-13)


@pytest.mark.parametrize("values", [(1.0, 0.9, 0.4, 0.0005), (0.9, 0.4, 0.0005)], ids=["with 1", "without"])
def test_a_leading_one_may_be_left_out(values: tuple[float, ...]) -> None:
    """Both mean ᾱ_1 = 0.9."""
    expected = [1.0, 0.9, 0.4, 0.0005]
    assert ab.Schedule.from_alpha_bar(values).alpha_bar.tolist() == expected
    spec = ab.schedules.FromAlphaBar(values)
    assert (spec.T, spec.build().alpha_bar.tolist()) == (3, expected)


@pytest.mark.parametrize("beta_max", [0.999, 0.3, 0.05])
@pytest.mark.parametrize("s", [0.008, 0.0, 0.2])
def test_cosine_settings(s: float, beta_max: float) -> None:
    """β_t = min(1 − f(t)/f(t−1), cap), Eq. 17 of Nichol and Dhariwal, by trigonometry of the half angle."""
    angle = (np.arange(1001) / 1000 + s) / (1 + s) * np.pi
    f = (1 + np.cos(angle)) / 2
    schedule = ab.schedules.Cosine(T=1000, s=s, beta_max=beta_max).build()
    assert schedule.betas.numpy() == pytest.approx(np.minimum(1 - f[1:] / f[:-1], beta_max), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (-3.0, 3.0, 0.5), (0.0, 3.0, 0.7)])
@pytest.mark.parametrize("beta_max", [0.999, 0.3])
def test_sigmoid_settings(start: float, end: float, tau: float, beta_max: float) -> None:
    """Jabri et al. 2022, with S(z) = (1 + tanh(z/2τ))/2; every β capped."""
    wave = np.tanh(np.linspace(start, end, 1001) / (2 * tau))
    left = wave[-1] - wave
    expected = np.minimum(1 - left[1:] / left[:-1], beta_max)
    schedule = ab.schedules.Sigmoid(T=1000, start=start, end=end, tau=tau, beta_max=beta_max).build()
    assert schedule.betas.numpy() == pytest.approx(expected, rel=1e-6)
    assert torch.all(schedule.alpha_bar > 0)
