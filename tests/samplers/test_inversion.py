"""Images to noise and back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from alphabar.samplers import invert
from noise import InjectedNoise
from oracles.gaussian import Gaussian
from oracles.nets import ExactNet

PAPER = ab.schedules.Linear(T=1000).build()
DATA = Gaussian(np.array([0.3, -0.5, 0.0, 1.0]), np.array([1.0, 0.25, 0.1, 0.5]))
x_0 = torch.tensor([[0.9, -0.8, 0.4, 0.1], [-1.0, 0.2, -0.3, 1.7]], dtype=torch.float64).reshape(2, 1, 2, 2)


def denoiser_of(schedule: ab.Schedule = PAPER, target: str = "eps") -> ab.Denoiser:
    prediction = {"eps": ab.Eps(), "v": ab.V(), "x0": ab.X0()}[target]
    net = ExactNet(DATA, schedule.alpha_bar, target)
    return ab.Denoiser(net, schedule, prediction=prediction, clip=None, shape=(1, 2, 2))


def there_and_back(steps: int, iterations: int, spacing: str = "uniform") -> float:
    chain, denoiser = ab.Chain.spaced(PAPER, steps, spacing), denoiser_of()
    x_T = invert(denoiser, x_0, chain, iterations=iterations)
    back = ab.sample(denoiser, ab.samplers.DDIM(eta=0.0), x_T, chain, InjectedNoise([]))
    return (back - x_0).abs().max().item()


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "trailing"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_error_falls_with_steps(iterations: int, spacing: str) -> None:
    errors = [there_and_back(steps, iterations, spacing) for steps in (10, 50, 250)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_the_error_falls_with_iterations() -> None:
    errors = [there_and_back(50, iterations) for iterations in (1, 2, 4, 8)]
    assert all(later < earlier / 5 for earlier, later in pairwise(errors))
    assert there_and_back(50, 16) < 1e-10


def test_a_thousand_steps_are_exact_enough() -> None:
    assert there_and_back(1000, 1) < 1e-4


def test_it_is_the_inverse_of_a_known_map() -> None:
    """x_T from the closed product of DDIM on Gaussian data, which knows nothing of iterations."""
    chain = ab.Chain.spaced(PAPER, 100)
    found = invert(denoiser_of(), x_0, chain, iterations=30)
    abars = [PAPER.alpha_bar[t].item() for t in chain.times]
    np.testing.assert_allclose(DATA.ddim_map(abars, found.reshape(2, 4).numpy()), x_0.reshape(2, 4), atol=1e-10)
    assert found.std() > 0.3


def test_one_network_call_per_hop_and_iteration() -> None:
    denoiser, chain = denoiser_of(), ab.Chain(PAPER, times=(700, 300, 20, 0))
    invert(denoiser, x_0[:1], chain, iterations=2)
    assert denoiser.net.seen == [[19], [19], [299], [299], [699], [699]]


@pytest.mark.parametrize("target", ["v", "x0"])
def test_an_end_without_signal(target: str) -> None:
    """ᾱ_T = 0: x_T is finite, and all that DDIM can keep of an image there is its mean."""
    schedule = ab.Schedule.from_betas([*np.linspace(0.02, 0.5, 10), 1.0])
    x_T = invert(denoiser_of(schedule, target), x_0, ab.Chain.full(schedule))
    assert torch.isfinite(x_T).all()


def test_gradients_are_not_kept() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        return weight * x_t

    denoiser = ab.Denoiser(net, PAPER, clip=None, shape=(1, 2, 2))
    assert not invert(denoiser, x_0, ab.Chain.spaced(PAPER, 3)).requires_grad


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iterations_are_refused(iterations: int) -> None:
    with pytest.raises(ab.AlphabarError, match=f"iterations: got {iterations}"):
        invert(denoiser_of(), x_0, ab.Chain.spaced(PAPER, 3), iterations=iterations)
