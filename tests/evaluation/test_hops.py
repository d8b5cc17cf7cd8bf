"""Importance-sampled hops: unbiased by exact averages, cheaper than even ones, with an error that holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import alphabar as ab
from alphabar.evaluation.hops import HopPlan, draw_hops, spread_of_sum
from alphabar.evaluation.pilot import importance_plan
from noise import SeededNoise
from oracles.gaussian import Gaussian
from oracles.nets import ExactNet

SCHEDULE = ab.schedules.Linear(T=100).build()
CHAIN = ab.Chain.full(SCHEDULE)
DATA = Gaussian(np.array([0.1, -0.2, 0.0, 0.3]), np.array([0.08, 0.05, 0.01, 0.0004]))


def denoiser() -> ab.Denoiser:
    net = ExactNet(DATA, SCHEDULE.alpha_bar)
    return ab.Denoiser(net, SCHEDULE, variance=ab.FixedLarge(), clip=None, shape=(1, 2, 2))


def images(n: int) -> torch.Tensor:
    noise = np.random.default_rng(0).normal(size=(n, 4))
    return torch.from_numpy((DATA.mean + DATA.var**0.5 * noise).clip(-1, 1)).reshape(n, 1, 2, 2)


class Even:
    """Uniform numbers that visit the middle of each of ``n`` equal parts of [0, 1)."""

    def __init__(self, n: int) -> None:
        self.n = n

    def rand(self, shape):
        rows, k = shape
        assert rows == self.n
        return ((torch.arange(self.n, dtype=torch.float64) + 0.5) / self.n)[:, None].expand(rows, k)

    def randn_like(self, x):
        raise AssertionError("no noise is wanted here")


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_every_hop_is_drawn_as_often_as_planned(k):
    """Averaged over all uniform numbers, the weights of each hop sum to exactly 1: unbiased whatever the plan."""
    p = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15], dtype=torch.float64)
    chain = ab.Chain(SCHEDULE, times=(50, 40, 30, 20, 10, 5, 0))
    n = 2100
    times, weights, _ = draw_hops(HopPlan(p, k), chain, n, Even(n))
    assert times.shape == weights.shape == (n, k)
    for place, t in enumerate(chain.times[:-2]):
        chosen = times == t
        assert float((weights * chosen).sum() / n) == pytest.approx(1.0, abs=4 / (n * float(p[place])))
        assert (weights[chosen] == 1 / (k * p[place])).all()


def test_one_draw_in_each_stratum():
    """K even draws of K equal hops visit every hop once."""
    chain = ab.Chain(SCHEDULE, times=(50, 40, 30, 20, 0))
    times, weights, _ = draw_hops(HopPlan.uniform(chain, 3), chain, 8, ab.Rng(0))
    assert (times == torch.tensor([50, 40, 30])).all() and (weights == 1).all()


def test_the_spread_of_a_sum_is_never_too_small_on_average():
    """Independent draws of one distribution: the estimate is unbiased; trends between strata only add to it."""
    rng = torch.Generator().manual_seed(0)
    for k in (2, 3, 4, 7):
        draws = torch.randn((40_000, k), generator=rng, dtype=torch.float64)
        assert float(spread_of_sum(draws).mean()) == pytest.approx(k, rel=0.03)
        assert float(spread_of_sum(draws + 5 * torch.arange(k)).mean()) > k
    assert spread_of_sum(torch.ones((2, 1))).isnan().all()


def test_the_plan_finds_the_hops_that_matter():
    plan = importance_plan(denoiser(), images(64), CHAIN, 20, SeededNoise(0))
    full = ab.variational_bound(denoiser(), images(500), CHAIN, SeededNoise(1))
    wanted = full.terms_nats.square().mean(0).sqrt()
    wanted = wanted / wanted.sum()
    assert plan.probability.shape == (99,) and float(plan.probability.sum()) == pytest.approx(1, abs=1e-12)
    assert float((plan.probability - wanted).abs().sum()) < 0.25
    assert plan.hops + plan.decoder_draws == 20 and plan.decoder_draws >= 1
    assert importance_plan(denoiser(), images(64), CHAIN, 200, SeededNoise(0)).decoder_draws > 5, "L_0 is noisy too"


def test_the_estimate_is_unbiased_and_its_error_holds():
    """Against the exact bound of the same images, in units of its own error, over 40 repetitions."""
    model, x0 = denoiser(), images(40)
    exact = np.mean([
        float(ab.variational_bound(model, x0, CHAIN, SeededNoise(s)).bits_per_dim.mean()) for s in range(100, 140)
    ])  # fmt: skip
    plan = importance_plan(model, x0, CHAIN, 12, SeededNoise(7))
    scores = []
    for seed in range(40):
        found = ab.variational_bound(model, x0, CHAIN, ab.PerImage(range(1000 * seed, 1000 * seed + 40)), hops=plan)
        scores.append((float(found.bits_per_dim.mean()) - exact) / found.draw_error)
    assert abs(np.mean(scores)) < 4 / math.sqrt(40), "biased"
    assert 0.5 < np.std(scores) < 1.5, "the error it states is not the error it makes"


def test_important_hops_are_worth_it():
    """At equal cost the plan beats evenly spread hops."""
    model, x0 = denoiser(), images(64)
    plan = importance_plan(model, x0, CHAIN, 11, SeededNoise(0))
    planned = ab.variational_bound(model, x0, CHAIN, ab.PerImage(range(64)), hops=plan)
    even = ab.variational_bound(model, x0, CHAIN, ab.PerImage(range(64)), hops=10)
    assert planned.draw_error < 0.7 * even.draw_error


def test_subtracting_long_noise_changes_the_error_and_not_the_mean():
    """With and without the control variate: the same expectation, a smaller spread."""
    model, x0 = denoiser(), images(2000)
    plan = importance_plan(model, x0[:64], CHAIN, 12, SeededNoise(7))
    plain = dataclasses.replace(plan, slopes=None, decoder_slope=0.0)
    a, b = (ab.variational_bound(model, x0, CHAIN, ab.PerImage(range(2000)), hops=p) for p in (plan, plain))
    assert float(plan.slopes.max()) > 0 and plan.decoder_slope > 0
    assert a.draw_error < 0.85 * b.draw_error
    both = math.hypot(a.draw_error, b.draw_error)
    assert abs(float(a.bits_per_dim.mean() - b.bits_per_dim.mean())) < 4 * both


def test_a_full_bound_draws_nothing():
    full = ab.variational_bound(denoiser(), images(3), CHAIN, SeededNoise(0))
    assert full.draw_error == 0 and full.weights.shape == full.terms_nats.shape and (full.weights == 1).all()


@pytest.mark.parametrize(
    ("probability", "hops"), [([0.5, 0.4], 1), ([1.0, 0.0], 1), ([0.5, 0.5], 0), ([math.nan, 1.0], 1)]
)
def test_impossible_plans(probability, hops):
    with pytest.raises(ab.AlphabarError, match="hop plan"):
        HopPlan(torch.tensor(probability, dtype=torch.float64), hops)


def test_too_few_calls():
    with pytest.raises(ab.AlphabarError, match="at least 2"):
        importance_plan(denoiser(), images(2), CHAIN, 1, SeededNoise(0))
