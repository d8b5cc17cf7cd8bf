"""What every sampler in the registry must satisfy; a new one is tested by being registered."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab

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
    assert sampler == ab.SAMPLERS[name]() and sampler.order >= 1 and isinstance(sampler.stochastic, bool)
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


@pytest.mark.parametrize("name", [n for n in ab.SAMPLERS if not ab.SAMPLERS[n]().stochastic])
def test_order_of_convergence(name: str) -> None:
    """Against the probability flow of a Gaussian, x_0 = x_T √(v/(ᾱ_T v + 1 − ᾱ_T)): the declared order, ±0.3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ab.AlphabarWarning)
        fine = ab.schedules.Linear(T=20_000, beta_1=5e-6, beta_T=1e-3).build()
    sampler = ab.SAMPLERS[name]()
    x_T = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    abar_T = float(fine.alpha_bar[-1])
    exact = math.sqrt(VARIANCE / (abar_T * VARIANCE + 1 - abar_T))
    steps = np.array([50, 100, 200, 400])
    errors = [
        abs(ab.sample(denoiser(fine), sampler, x_T, ab.Chain.spaced(fine, n), ab.stream(0)).item() - exact)
        for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(sampler.order, abs=0.3)


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_the_consumer_keeps_its_gradients(name: str) -> None:
    """``trajectory`` is a generator without gradients; the code that reads it is not."""
    frames = ab.trajectory(
        denoiser(PAPER), ab.SAMPLERS[name](), torch.ones(1, 1, 4, 4), ab.Chain.spaced(PAPER, 3), ab.stream(0)
    )
    for _ in frames:
        assert torch.is_grad_enabled()
