"""ln σ² of the reverse step: β̃, β, or what the network says; the last hop uses the chain's floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from oracles import constants
from oracles.gaussian import condition, hop_variances

SCHEDULE = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
CHAINS = [ab.Chain.full(SCHEDULE), ab.Chain(SCHEDULE, times=(10, 4, 1, 0)), ab.Chain(SCHEDULE, times=(10, 0))]
FIXED = {"small": ab.FixedSmall, "large": ab.FixedLarge}
X_T = torch.zeros(2, 1, 2, 2, dtype=torch.float64)


def denoiser_of(variance: object, schedule: ab.Schedule = SCHEDULE, head: Tensor | None = None) -> ab.Denoiser:
    """A network that predicts ε = 0, followed by ``head`` for a learned variance."""

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        out = torch.zeros_like(x_t)
        return out if head is None else torch.cat([out, head.expand_as(out)], dim=1)

    return ab.Denoiser(net, schedule, prediction=ab.Eps(), variance=variance, clip=None, shape=(1, 2, 2))


def values(log_var: float | Tensor) -> np.ndarray:
    """ln σ² as a flat array, whatever form it travels in."""
    return torch.as_tensor(log_var, dtype=torch.float64).reshape(-1).numpy()


@pytest.mark.parametrize("chain", CHAINS, ids=["full", "spaced", "one hop"])
@pytest.mark.parametrize("kind", FIXED)
def test_fixed_variances(kind: str, chain: ab.Chain) -> None:
    """σ² = β̃ or β of *this* hop, not of the schedule's step; the floor at the end for both."""
    abars = [SCHEDULE.alpha_bar[t].item() for t in chain.times]
    for hop, sigma2 in zip(chain, hop_variances(abars, kind), strict=True):
        assert values(denoiser_of(FIXED[kind]())(X_T, hop).log_var) == pytest.approx(np.log(sigma2), rel=1e-10)


@pytest.mark.parametrize("kind", FIXED)
def test_fixed_variances_per_image(kind: str) -> None:
    """Training's form: one t per image."""
    chain = ab.Chain.full(SCHEDULE)
    sigma2 = hop_variances([SCHEDULE.alpha_bar[t].item() for t in chain.times], kind)
    log_var = denoiser_of(FIXED[kind]())(X_T, chain.at(torch.tensor([1, 7]))).log_var
    assert values(log_var) == pytest.approx(np.log([sigma2[-1], sigma2[3]]), rel=1e-10)


@pytest.mark.parametrize("kind", FIXED)
def test_an_explicit_floor_wins(kind: str) -> None:
    """``var_floor`` is the variance of the last hop, whatever the kind."""
    *_, last = ab.Chain(SCHEDULE, times=(10, 4, 1, 0), var_floor=0.125)
    assert values(denoiser_of(FIXED[kind]())(X_T, last).log_var) == pytest.approx(np.log(0.125), rel=1e-12)


def test_learned_is_the_networks_log_variance() -> None:
    """The second half of the channels, untouched; the first half is the prediction."""
    head = torch.tensor([[-3.0, -1.0], [0.5, -7.0]], dtype=torch.float64)
    hop = next(iter(CHAINS[0]))
    est = denoiser_of(ab.Learned(), head=head)(X_T, hop)
    torch.testing.assert_close(est.log_var, head.expand(2, 1, 2, 2))
    assert est.eps.shape == X_T.shape
    assert est.eps.abs().max().item() == 0.0


@pytest.mark.parametrize("chain", CHAINS[:2], ids=["full", "spaced"])
def test_learned_range_interpolates_logs(chain: ab.Chain) -> None:
    """−1 is β̃ (the floor at the last hop), +1 is β, halfway is the geometric mean (Nichol & Dhariwal, Eq. 15)."""
    for hop in chain:
        low = np.log(condition(hop.abar_t, hop.abar_s)[2] if hop.s else hop.var_floor)
        high = np.log1p(-hop.abar_t / hop.abar_s)
        for value, expected in [(-1.0, low), (1.0, high), (0.0, (low + high) / 2)]:
            head = torch.full((1, 2, 2), value, dtype=torch.float64)
            log_var = denoiser_of(ab.LearnedRange(), head=head)(X_T, hop).log_var
            assert values(log_var) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("index", "expected"), constants.DIFFUSERS_LEARNED_RANGE.items())
def test_learned_range_matches_diffusers(index: int, expected: float) -> None:
    """UnCLIP's published numbers: cosine schedule, network value 0.5, t = index + 1."""
    schedule = ab.schedules.Cosine(T=1000).build()
    hop = next(hop for hop in ab.Chain.full(schedule) if hop.t == index + 1)
    head = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    log_var = denoiser_of(ab.LearnedRange(), schedule, head)(X_T, hop).log_var
    assert values(log_var) == pytest.approx(expected, abs=1e-4)


def test_a_learned_variance_is_that_of_single_steps() -> None:
    """On a spaced chain it is refused: the network never saw a longer hop."""
    schedule = ab.schedules.Linear(T=10).build()
    x_t = torch.zeros((2, 1, 2, 2))

    def net(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], dim=1)

    denoiser = ab.Denoiser(net, schedule, variance=ab.Learned(), shape=(1, 2, 2))
    full, spaced = ab.Chain.full(schedule), ab.Chain(schedule, times=(10, 7, 0))
    for tr in full:
        assert denoiser(x_t, tr).log_var.shape == x_t.shape
    for tr in (*spaced, spaced.at(torch.tensor([10, 7]))):
        with pytest.raises(ab.AlphabarError, match="single steps"):
            _ = denoiser(x_t, tr).log_var
    assert denoiser(x_t, full.at(torch.tensor([3, 1]))).log_var.shape == x_t.shape
