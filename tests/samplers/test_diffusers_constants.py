"""The published expectations of diffusers' scheduler tests, reproduced through our samplers.

Source: tests/schedulers/test_scheduler_ddpm.py and test_scheduler_ddim.py of huggingface/diffusers (Apache-2.0).  Their
dummy network is x·t/(t+1) with 0-based t (our index); their dummy images are an arange.  Their DDIM clips x0 but keeps
the ε that belongs to the unclipped x0; :class:`KeepsEps` translates that, since our estimates stay consistent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import alphabar as ab
from alphabar.process import equations as eq
from noise import SeededNoise
from oracles import constants

LINEAR = ab.schedules.Linear(T=1000).build()
SHAPE = (3, 8, 8)
DTYPES = [torch.float64, torch.float32]
PREDICTIONS = {"eps": ab.Eps, "v": ab.V}


def dummy_images(flipped: bool = False) -> Tensor:
    """diffusers' ``dummy_sample_deter``, and ``dummy_noise_deter`` when flipped: [4, 3, 8, 8]."""
    numbers = torch.arange(768, dtype=torch.float64)
    numbers = numbers.flip(-1) if flipped else numbers
    return (numbers.reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2).contiguous()


def dummy_net(x_t: Tensor, index: Tensor) -> Tensor:
    """diffusers' ``dummy_model``."""
    t = index.to(x_t.dtype).reshape(-1, 1, 1, 1)
    return x_t * (t / (t + 1))


def denoiser_of(kind: str = "eps", schedule: ab.Schedule = LINEAR) -> ab.Denoiser:
    """Clipping to [−1, 1] and β̃, as the reference runs."""
    prediction = PREDICTIONS[kind]()
    return ab.Denoiser(
        dummy_net, schedule, prediction=prediction, variance=ab.FixedSmall(), clip=ab.Clip(1.0), shape=SHAPE
    )


class KeepsEps:
    """An estimate whose ε is not re-derived from the clipped x0 (``use_clipped_model_output=False``)."""

    def __init__(self, est: Any, x_t: Tensor, abar_t: float) -> None:
        self._est = est
        self.eps = eq.eps_from_x0(x_t, est.x0_raw, abar_t)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._est, name)


def keeping_eps(denoiser: ab.Denoiser) -> Callable[..., KeepsEps]:
    """``denoiser`` with diffusers' DDIM convention."""
    return lambda x_t, tr, **cond: KeepsEps(denoiser(x_t, tr, **cond), x_t, tr.abar_t)


def assert_loop(x: Tensor, expected: tuple[float, float], tolerance: float = 1e-2) -> None:
    """Sum and mean of |x|, at the tolerances of the reference."""
    assert x.double().abs().sum().item() == pytest.approx(expected[0], abs=tolerance)
    assert x.double().abs().mean().item() == pytest.approx(expected[1], abs=1e-3)


@pytest.mark.parametrize(("index", "expected"), constants.DIFFUSERS_DDPM_VARIANCE.items())
def test_ddpm_variance(index: int, expected: float) -> None:
    """β̃ at 0-based t."""
    abar = LINEAR.alpha_bar
    assert float(eq.beta_tilde(abar[index + 1].item(), abar[index].item())) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("indices", "expected"), constants.DIFFUSERS_DDIM_VARIANCE.items())
def test_ddim_variance(indices: tuple[int, int], expected: float) -> None:
    """β̃ of a coarse hop."""
    abar = LINEAR.alpha_bar
    actual = float(eq.beta_tilde(abar[indices[0] + 1].item(), abar[indices[1] + 1].item()))
    assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddpm_full_loop(kind: str, dtype: torch.dtype) -> None:
    """1000 steps with torch's own generator."""
    x = ab.sample(
        denoiser_of(kind), ab.samplers.Ancestral(), dummy_images().to(dtype), ab.Chain.full(LINEAR), SeededNoise(0)
    )
    assert_loop(x, constants.DIFFUSERS_DDPM_LOOP[kind])


def test_ddpm_with_noise() -> None:
    """Noised to 0-based t = 1 and denoised in two hops; the reference's own float32 table is 0.02 off float64."""
    chain = ab.Chain(LINEAR, times=(2, 1, 0))
    x_t = eq.q_sample(dummy_images(), dummy_images(flipped=True), LINEAR.alpha_bar[2].item())
    x = ab.sample(denoiser_of(), ab.samplers.Ancestral(), x_t, chain, SeededNoise(0))
    assert_loop(x, constants.DIFFUSERS_DDPM_LOOP["eps_with_noise"], tolerance=3e-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_full_loop(kind: str, dtype: torch.dtype) -> None:
    """10 steps, leading, η = 0, ᾱ = 1 at the end."""
    chain = ab.Chain.spaced(LINEAR, 10, spacing="leading")
    denoise = keeping_eps(denoiser_of(kind))
    x = ab.sample(denoise, ab.samplers.DDIM(eta=0.0), dummy_images().to(dtype), chain, SeededNoise(0))
    assert_loop(x, constants.DIFFUSERS_DDIM_LOOP[kind])


def test_ddim_other_schedule() -> None:
    """β from 0.01 to 0.02."""
    schedule = ab.schedules.Linear(T=1000, beta_1=0.01, beta_T=0.02).build()
    chain = ab.Chain.spaced(schedule, 10, spacing="leading")
    denoise = keeping_eps(denoiser_of("eps", schedule))
    x = ab.sample(denoise, ab.samplers.DDIM(eta=0.0), dummy_images(), chain, SeededNoise(0))
    assert_loop(x, constants.DIFFUSERS_DDIM_LOOP["eps_beta_start_01"])


def test_ddim_that_stops_at_the_first_level() -> None:
    """``set_alpha_to_one=False``: the last hop goes from ᾱ_1 to ᾱ_1, which only replaces x0 by its clipped value."""
    schedule = ab.schedules.Linear(T=1000, beta_1=0.01, beta_T=0.02).build()
    abar_1 = schedule.alpha_bar[1].item()
    chain = ab.Chain.spaced(schedule, 10, spacing="leading")
    denoise = keeping_eps(denoiser_of("eps", schedule))
    frames = list(ab.trajectory(denoise, ab.samplers.DDIM(eta=0.0), dummy_images(), chain, SeededNoise(0)))
    x_1 = frames[-2].x
    last = list(chain)[-1]
    est = denoise(x_1, last)
    x = eq.q_sample(est.x0, est.eps, abar_1)
    assert_loop(x, constants.DIFFUSERS_DDIM_LOOP["eps_beta_start_01_alpha_not_one"])


def test_ddim_with_noise() -> None:
    """Noised to 0-based t = 100, two hops left."""
    chain = ab.Chain(LINEAR, times=(101, 1, 0))
    x_t = eq.q_sample(dummy_images(), dummy_images(flipped=True), LINEAR.alpha_bar[101].item())
    x = ab.sample(keeping_eps(denoiser_of()), ab.samplers.DDIM(eta=0.0), x_t, chain, SeededNoise(0))
    assert_loop(x, constants.DIFFUSERS_DDIM_LOOP["eps_with_noise"])


def test_ddim_constants_never_clip() -> None:
    """Why they cannot tell the two conventions apart: the reference DDIM runs stay inside [−1, 1]; DDPM's do not."""
    chain = ab.Chain.spaced(LINEAR, 10, spacing="leading")
    consistent = ab.sample(denoiser_of("v"), ab.samplers.DDIM(eta=0.0), dummy_images(), chain, SeededNoise(0))
    assert_loop(consistent, constants.DIFFUSERS_DDIM_LOOP["v"])
    unclipped = ab.Denoiser(dummy_net, LINEAR, prediction=ab.Eps(), variance=ab.FixedSmall(), clip=None, shape=SHAPE)
    x = ab.sample(unclipped, ab.samplers.Ancestral(), dummy_images(), ab.Chain.full(LINEAR), SeededNoise(0))
    assert x.abs().sum().item() > constants.DIFFUSERS_DDPM_LOOP["eps"][0] + 1


@pytest.mark.parametrize("keeps_eps", [False, True])
def test_both_clipping_conventions_where_they_differ(keeps_eps: bool) -> None:
    """Images three times as bright: ours (ε re-derived) and diffusers' (ε kept), each against plain numpy."""
    chain = ab.Chain.spaced(LINEAR, 10, spacing="leading")
    denoise = keeping_eps(denoiser_of()) if keeps_eps else denoiser_of()
    x = ab.sample(denoise, ab.samplers.DDIM(eta=0.0), 3 * dummy_images(), chain, SeededNoise(0))
    expected, bites = 3 * dummy_images().numpy(), False
    for t, s in zip(chain.times[:-1], chain.times[1:], strict=True):
        abar_t, abar_s = LINEAR.alpha_bar[t].item(), LINEAR.alpha_bar[s].item()
        eps = expected * ((t - 1) / t)
        x0 = (expected - (1 - abar_t) ** 0.5 * eps) / abar_t**0.5
        bites = bites or bool(abs(x0).max() > 1)
        x0 = x0.clip(-1, 1)
        eps = eps if keeps_eps else (expected - abar_t**0.5 * x0) / (1 - abar_t) ** 0.5
        expected = abar_s**0.5 * x0 + (1 - abar_s) ** 0.5 * eps
    assert bites
    torch.testing.assert_close(x, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)
