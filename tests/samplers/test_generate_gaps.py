"""DDIM with a clipped estimate; the mode in which the network generates; what ``generate`` warns of."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import alphabar as ab
from noise import InjectedNoise
from oracles.gaussian import condition

SCHEDULE = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
CHAIN = ab.Chain(SCHEDULE, times=(10, 7, 4, 1, 0))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_moves_along_the_noise_that_fits_the_clipped_image(eta: float) -> None:
    """x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−σ²) (x_t − √ᾱ_t x̂_0)/√(1−ᾱ_t) + σz with x̂_0 in range, for a network that shouts."""
    shout = torch.tensor([[[[3.0, -2.0], [0.4, 1.5]]]], dtype=torch.float64)
    denoiser = ab.Denoiser(lambda x_t, index: shout, SCHEDULE, prediction=ab.X0(), clip=ab.Clip(1.0), shape=(1, 2, 2))
    draws = [torch.sin(torch.arange(4, dtype=torch.float64) * 1.3 + i).reshape(1, 1, 2, 2) for i in range(5)]
    x_T, *rest = draws
    actual = [frame.x for frame in ab.trajectory(denoiser, ab.samplers.DDIM(eta=eta), x_T, CHAIN, InjectedNoise(rest))]

    x, x0 = x_T, torch.tensor([[[[1.0, -1.0], [0.4, 1.0]]]], dtype=torch.float64)
    abars = [SCHEDULE.alpha_bar[t].item() for t in CHAIN.times]
    for abar_t, abar_s, frame, z in zip(abars[:-1], abars[1:], actual, rest, strict=True):
        var = eta**2 * condition(abar_t, abar_s)[2]
        eps = (x - abar_t**0.5 * x0) / (1 - abar_t) ** 0.5
        x = abar_s**0.5 * x0 + max(1 - abar_s - var, 0.0) ** 0.5 * eps + max(var, 0.0) ** 0.5 * z
        torch.testing.assert_close(frame, x, rtol=1e-10, atol=1e-10)


class Watched(nn.Module):
    """Says zero and remembers in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.modes: list[bool] = []

    def forward(self, x_t: Tensor, index: Tensor) -> Tensor:
        """Zeros."""
        self.modes.append(self.training)
        return self.weight * x_t


@pytest.mark.parametrize("before", [True, False])
def test_images_are_generated_in_evaluation_mode(before: bool) -> None:
    """Dropout would be noise that no equation has; afterwards the mode is what it was."""
    net = Watched()
    denoiser = ab.Denoiser(net, SCHEDULE, variance=ab.FixedSmall(), shape=(1, 2, 2)).train(before)
    ab.generate(denoiser, ab.samplers.Ancestral(), CHAIN, seeds=range(3), batch=2)
    assert net.modes == [False] * 8
    assert denoiser.training is before


def warned(sampler: object, chain: ab.Chain, variance: object) -> list[str]:
    denoiser = ab.Denoiser(Watched(), SCHEDULE, variance=variance, shape=(1, 2, 2))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            ab.generate(denoiser, sampler, chain, seeds=range(3), batch=2)
    assert all(w.category is ab.AlphabarWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


@pytest.mark.parametrize("sampler", [ab.samplers.Ancestral(), ab.samplers.PredictorCorrector()], ids=str)
def test_large_variances_on_long_hops_are_warned_of_once(sampler: object) -> None:
    (message,) = warned(sampler, CHAIN, ab.FixedLarge())
    assert "sigma^2 = beta" in message and "4 of 10 steps" in message and "FixedSmall()" in message


@pytest.mark.parametrize(
    ("sampler", "chain", "variance"),
    [
        (ab.samplers.Ancestral(), CHAIN, ab.FixedSmall()),
        (ab.samplers.Ancestral(), ab.Chain.full(SCHEDULE), ab.FixedLarge()),
        (ab.samplers.Ancestral(), ab.Chain(SCHEDULE, (3, 2, 1, 0)), ab.FixedLarge()),
        (ab.samplers.Ancestral(), ab.Chain(SCHEDULE, (10, 0)), ab.FixedLarge()),
        (ab.samplers.DDIM(eta=1.0), CHAIN, ab.FixedLarge()),
        (ab.samplers.SDEDPMSolverPP2M(), CHAIN, ab.FixedLarge()),
    ],
    ids=["small", "full", "single steps", "one noiseless hop", "ddim", "sde"],
)
def test_nothing_to_warn_of(sampler: object, chain: ab.Chain, variance: object) -> None:
    assert warned(sampler, chain, variance) == []


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 2]), (3, [3, 1, 2]), (1, [1] * 6)])
def test_no_more_at_a_time_than_memory_is_said_to_hold(limit: int | None, sizes: list[int], monkeypatch) -> None:
    monkeypatch.setattr("alphabar.samplers.generate.images_at_once", lambda denoiser: limit)
    seen: list[int] = []

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        seen.append(len(x_t))
        return 0.1 * x_t

    denoiser = ab.Denoiser(net, SCHEDULE, shape=(1, 2, 2), variance=ab.FixedSmall())
    images = ab.generate(denoiser, ab.samplers.Ancestral(), ab.Chain(SCHEDULE, (10, 0)), range(6), batch=4)
    assert seen == sizes
    one_by_one = [ab.generate(denoiser, ab.samplers.Ancestral(), ab.Chain(SCHEDULE, (10, 0)), [i]) for i in range(6)]
    assert torch.equal(images, torch.cat(one_by_one))
