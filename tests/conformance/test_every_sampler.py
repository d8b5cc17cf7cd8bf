"""What every sampler in the registry must satisfy; a new one is tested by being registered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from alphabar.process.spacings import SPACINGS
from noise import InjectedNoise
from oracles.gaussian import Gaussian
from oracles.nets import ExactNet

PAPER = ab.schedules.Linear(T=1000).build()
VARIANCE = 0.25


class GaussianEps:
    """The exact ε of data N(0, VARIANCE) in every pixel, for a table of ᾱ."""

    def __init__(self, schedule: ab.Schedule) -> None:
        self.abar = schedule.alpha_bar[1:]

    def __call__(self, x_t: Tensor, index: Tensor) -> Tensor:
        abar = self.abar[index].reshape(-1, 1, 1, 1).to(x_t.dtype)
        return (1 - abar).sqrt() / (abar * VARIANCE + 1 - abar) * x_t


def denoiser(schedule: ab.Schedule, clip: ab.Clip | None = None) -> ab.Denoiser:
    return ab.Denoiser(GaussianEps(schedule), schedule, shape=(1, 4, 4), variance=ab.FixedSmall(), clip=clip)


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_a_frozen_value_with_its_facts(name: str) -> None:
    sampler = ab.SAMPLERS[name]()
    assert sampler == ab.SAMPLERS[name]() and isinstance(sampler.stochastic, bool)
    assert sampler.order >= (0 if sampler.stochastic else 1) and sampler.calls_per_hop >= 1
    assert sampler.few_steps in SPACINGS
    with pytest.raises(AttributeError):
        sampler.order = 7


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "leading", "trailing"])
@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_image_i_depends_on_its_seed_alone(name: str, spacing: str) -> None:
    chain = ab.Chain.spaced(PAPER, 12, spacing)
    model, sampler = denoiser(PAPER, ab.Clip()), ab.SAMPLERS[name]()
    eight = ab.generate(model, sampler, chain, seeds=range(8))
    assert eight.dtype == torch.uint8 and eight.shape == (8, 1, 4, 4)
    assert torch.equal(ab.generate(model, sampler, chain, seeds=[7]), eight[7:])
    assert torch.equal(ab.generate(model, sampler, chain, seeds=range(8), batch=3), eight)
    assert torch.equal(ab.generate(model, sampler, chain, seeds=[5, 2]), eight[[5, 2]])
    assert not torch.equal(eight[0], eight[1])


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_every_frame_lands_where_the_next_begins(name: str) -> None:
    chain = ab.Chain.spaced(PAPER, 9)
    x_T = ab.stream(0).randn([2, 1, 4, 4])
    frames = list(ab.trajectory(denoiser(PAPER), ab.SAMPLERS[name](), x_T, chain, ab.stream(1)))
    assert [frame.t for frame in frames] == list(chain.times[1:])
    assert all(frame.x.shape == frame.x0.shape == x_T.shape for frame in frames)
    assert all(not frame.x.requires_grad for frame in frames)


def even(T: int) -> ab.Schedule:
    """λ = ½ ln ᾱ/(1−ᾱ) falls evenly from 4 at t = 1 to −4 at t = T."""
    lam = torch.linspace(4, -4, T, dtype=torch.float64)
    return ab.Schedule.from_alpha_bar(torch.sigmoid(2 * lam))


@pytest.mark.parametrize("name", [n for n in ab.SAMPLERS if not ab.SAMPLERS[n]().stochastic])
def test_order_of_convergence(name: str) -> None:
    """Against the probability flow of a Gaussian, x_1 = x_T √(c_1/c_T), c = ᾱ v + 1 − ᾱ: the order declared, ±0.3."""
    schedule, sampler = even(10_001), ab.SAMPLERS[name]()
    x_T = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    c_T, c_1 = (float(schedule.alpha_bar[t] * VARIANCE + 1 - schedule.alpha_bar[t]) for t in (-1, 1))
    steps = np.array([51, 101, 201, 401])
    errors = []
    for n in steps:
        frames = list(ab.trajectory(denoiser(schedule), sampler, x_T, ab.Chain.spaced(schedule, n), ab.stream(0)))
        assert frames[-2].t == 1
        errors.append(abs(frames[-2].x.item() - math.sqrt(c_1 / c_T)))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(sampler.order, abs=0.3)


@pytest.mark.parametrize("name", [n for n in ab.SAMPLERS if not ab.SAMPLERS[n]().stochastic])
def test_what_the_last_hop_leaves(name: str) -> None:
    """The hop to 0 is x̂_0 or close to it: on the paper's schedule the whole error at 100 steps is small."""
    exact = math.sqrt(VARIANCE / float(PAPER.alpha_bar[-1] * VARIANCE + 1 - PAPER.alpha_bar[-1]))
    x_T, chain = torch.ones(1, 1, 1, 1, dtype=torch.float64), ab.Chain.spaced(PAPER, 100)
    found = ab.sample(denoiser(PAPER), ab.SAMPLERS[name](), x_T, chain, ab.stream(0)).item()
    assert found == pytest.approx(exact, abs=0.03 if ab.SAMPLERS[name].order == 1 else 2e-3)


TARGETS = {"eps": ab.Eps, "x0": ab.X0, "v": ab.V, "mean": ab.Mean, "score": ab.Score}
DATA = Gaussian(np.full(4, 0.1), np.full(4, VARIANCE))
SMALL = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
SILENT = ab.Schedule.from_betas([*np.linspace(0.02, 0.5, 10), 1.0])  # ᾱ_T = 0
CHAINS = {
    "full": ab.Chain.full(SMALL),
    "one hop": ab.Chain(SMALL, (10, 0)),
    "one short hop": ab.Chain(SMALL, (1, 0)),
    "from the middle": ab.Chain(SMALL, (6, 5, 2, 0)),
    **{spacing: ab.Chain.spaced(SMALL, 6, spacing) for spacing in SPACINGS},
}


def exact(schedule: ab.Schedule, target: str, clip: float | None = None) -> ab.Denoiser:
    net = ExactNet(DATA, schedule.alpha_bar, target)
    return ab.Denoiser(
        net, schedule, prediction=TARGETS[target](), variance=ab.FixedSmall(), clip=clip, shape=(1, 2, 2)
    )


def start(seeds: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return ab.PerImage(range(seeds)).randn((1, 2, 2), dtype)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_on_every_chain_whatever_the_network_predicts(name: str, chain: ab.Chain) -> None:
    """An exact network gives the same images in each of its forms."""

    def made(target: str) -> Tensor:
        return ab.sample(exact(SMALL, target), ab.SAMPLERS[name](), start(), chain, ab.PerImage(range(3)))

    expected = made("eps")
    assert expected.abs().max() < 4
    for target in TARGETS:
        torch.testing.assert_close(made(target), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("clip", [None, 1.0], ids=["free", "clipped"])
@pytest.mark.parametrize("target", ["v", "x0"])
@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_an_end_without_signal(name: str, target: str, clip: float | None, dtype: torch.dtype) -> None:
    """ᾱ_T = 0, λ = −∞: the images are finite, and nearly those of an end with next to no signal.

    Nearly: the weights of a rule in λ approach their limit as 1/|λ_T| does, here 1/14.
    """
    chains = [ab.Chain.full(SILENT), *(ab.Chain(SILENT, times) for times in [(11, 0), (11, 1, 0), (11, 7, 4, 1, 0)])]
    nearly = ab.Schedule.from_betas([*np.linspace(0.02, 0.5, 10), 1 - 1e-12])
    for chain in chains:
        made = [
            ab.sample(
                exact(schedule, target, clip),
                ab.SAMPLERS[name](),
                start(dtype=dtype),
                ab.Chain(schedule, chain.times),
                ab.PerImage(range(3)),
            )
            for schedule in (SILENT, nearly)
        ]
        assert made[0].dtype == dtype and torch.isfinite(made[0]).all()
        torch.testing.assert_close(*made, rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_a_thousand_hops_carry_no_more_than_a_few_images(name: str) -> None:
    """The paper's full chain, in the precision of images; what is carried does not grow with the hops."""
    sampler, model, x = ab.SAMPLERS[name](), denoiser(PAPER, ab.Clip()), start(2, torch.float32)
    state, rng = sampler.init(ab.Chain.full(PAPER)), ab.PerImage(range(2))
    most = 0
    for tr in ab.Chain.full(PAPER):
        x, x0, state = sampler.step(model, x, tr, state, rng)
        assert torch.isfinite(x).all() and torch.isfinite(x0).all()
        most = max(most, sum(isinstance(part, Tensor) for part in (state if isinstance(state, tuple) else ())))
    assert most <= 3 and 0.1 < x.std() < 1


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_network_calls_are_counted_right(name: str, chain: ab.Chain) -> None:
    model = exact(SMALL, "eps")
    ab.sample(model, ab.SAMPLERS[name](), start(1), chain, ab.PerImage([0]))
    assert len(model.net.seen) == ab.samplers.network_calls(ab.SAMPLERS[name](), chain)
    assert all(0 <= index < SMALL.T for (index,) in model.net.seen)


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_whether_noise_and_variance_play_a_part(name: str) -> None:
    """As declared, and no noise is drawn on the hop to 0."""
    sampler, chain = ab.SAMPLERS[name](), CHAINS["from the middle"]

    def made(seed: int, variance: object) -> Tensor:
        model = exact(SMALL, "eps")
        model.variance = variance
        return ab.sample(model, sampler, start(), chain, ab.PerImage([seed, seed + 1, seed + 2]))

    assert made(0, ab.FixedSmall()).equal(made(5, ab.FixedSmall())) is not sampler.stochastic
    assert made(0, ab.FixedSmall()).equal(made(0, ab.FixedLarge())) is not sampler.needs_variance
    ab.sample(exact(SMALL, "eps"), sampler, start(), CHAINS["one hop"], InjectedNoise([]))


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_the_consumer_keeps_its_gradients(name: str) -> None:
    """``trajectory`` is a generator without gradients; the code that reads it is not."""
    frames = ab.trajectory(
        denoiser(PAPER), ab.SAMPLERS[name](), torch.ones(1, 1, 4, 4), ab.Chain.spaced(PAPER, 3), ab.stream(0)
    )
    for _ in frames:
        assert torch.is_grad_enabled()
