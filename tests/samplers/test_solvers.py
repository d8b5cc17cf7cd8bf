"""The solvers of other papers: each against its own formulas in numpy, also where x̂_0 is clipped, and against DDIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from noise import InjectedNoise
from oracles import solvers
from oracles.discrete import Atoms
from oracles.gaussian import condition
from oracles.nets import ExactNet

ATOMS = Atoms(np.array([-0.8, -0.1, 0.2, 0.9]), np.array([0.1, 0.2, 0.3, 0.4]))
SHORT = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
PAPER = ab.schedules.Linear(T=1000).build()
COSINE = ab.schedules.Cosine(T=1000).build()
CHAINS = {
    "T=10": ab.Chain.full(SHORT),
    "T=10, two hops": ab.Chain(SHORT, times=(10, 1, 0)),
    "T=10, from 7": ab.Chain(SHORT, times=(7, 6, 2, 0)),
    "linear, 12 uniform": ab.Chain.spaced(PAPER, 12),
    "linear, 12 quadratic": ab.Chain.spaced(PAPER, 12, "quadratic"),
    "cosine, 9 trailing": ab.Chain.spaced(COSINE, 9, "trailing"),
}
x_T, *NOISE = [torch.sin(torch.arange(12, dtype=torch.float64) * 1.7 + i).reshape(3, 1, 2, 2) * 2 for i in range(41)]


def denoiser_of(schedule: ab.Schedule, clip: float | None = None, variance: object = None) -> ab.Denoiser:
    net = ExactNet(ATOMS, schedule.alpha_bar)
    return ab.Denoiser(net, schedule, shape=(1, 2, 2), variance=variance or ab.FixedSmall(), clip=clip)


def frames(sampler: object, chain: ab.Chain, clip: float | None = None) -> list[Tensor]:
    noise = InjectedNoise(NOISE[: len(chain) - 1])
    return [f.x for f in ab.trajectory(denoiser_of(chain.schedule, clip), sampler, x_T, chain, noise)]


def estimate(clip: float | None) -> solvers.X0:
    return lambda x, abar: ATOMS.x0_star(x, abar) if clip is None else ATOMS.x0_star(x, abar).clip(-clip, clip)


def numpy_sde(x0_of: solvers.X0, abars: list[float], x: np.ndarray) -> Iterator[np.ndarray]:
    return solvers.dpmpp_2m_sde(x0_of, abars, x, [z.numpy() for z in NOISE])


ORACLES: dict[str, tuple[object, Callable[..., Iterator[np.ndarray]]]] = {
    "dpmpp_2m": (ab.samplers.DPMSolverPP2M(), solvers.dpmpp_2m),
    "dpmpp_2m_sde": (ab.samplers.SDEDPMSolverPP2M(), numpy_sde),
    "heun": (ab.samplers.Heun(), solvers.heun),
    "plms": (ab.samplers.PLMS(), solvers.plms),
}


@pytest.mark.parametrize("clip", [None, 0.5], ids=["free", "clipped"])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("name", ORACLES)
def test_every_frame_is_the_papers(name: str, chain: ab.Chain, clip: float | None) -> None:
    """A denoiser that is not linear; a clip that bites."""
    sampler, oracle = ORACLES[name]
    abars = [chain.schedule.alpha_bar[t].item() for t in chain.times]
    actual = frames(sampler, chain, clip)
    expected = list(oracle(estimate(clip), abars, x_T.numpy()))
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-8, atol=1e-8)


def test_the_limits_of_extrapolation_matter() -> None:
    """The chains above hold hops on both sides of each limit, or the limits would not have been tested."""
    lam = [solvers.lam(PAPER.alpha_bar[t].item()) for t in CHAINS["linear, 12 uniform"].times[:-1]]
    ratios = np.diff(lam)[1:] / np.diff(lam)[:-1]
    assert ratios.min() < 0.95 and ratios.max() > 2
    sigma = np.exp(
        -np.array([solvers.lam(COSINE.alpha_bar[t].item()) for t in CHAINS["cosine, 9 trailing"].times[:-1]])
    )
    assert (sigma[:-1] / sigma[1:]).max() > 100 and (sigma[:-1] / sigma[1:]).min() < 2


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_one_hop_is_ddim(chain: ab.Chain, name: str) -> None:
    """Order 1 is DDIM(0): the first step of the multi-step rules, and any chain of one hop."""
    ddim = ab.samplers.DDIM(eta=0.0)
    once = ab.Chain(chain.schedule, times=(chain.times[0], 0))
    torch.testing.assert_close(frames(ORACLES[name][0], once)[0], frames(ddim, once)[0], rtol=1e-12, atol=1e-12)
    if name != "heun":
        torch.testing.assert_close(frames(ORACLES[name][0], chain)[0], frames(ddim, chain)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_the_sde_form_of_order_one_is_ancestral_after_its_first_hop(chain: ab.Chain) -> None:
    """With equal estimates there is nothing to extrapolate: Algorithm 2 with σ² = β̃. The first hop draws nothing."""
    same = {"shape": (1, 2, 2), "prediction": ab.X0(), "variance": ab.FixedSmall()}
    constant = ab.Denoiser(lambda x, index: torch.full_like(x, 0.3), chain.schedule, **same)
    noise = InjectedNoise(NOISE[: len(chain) - 2])
    sde, *after = ab.trajectory(constant, ab.samplers.SDEDPMSolverPP2M(), x_T, chain, noise)
    assert noise.left == 0
    onward = ab.Chain(chain.schedule, times=chain.times[1:])
    draws = InjectedNoise(NOISE[: len(onward) - 1])
    for one, other in zip(after, ab.trajectory(constant, ab.samplers.Ancestral(), sde.x, onward, draws), strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_predictor_and_corrector(steps: int) -> None:
    """Ancestral steps and Langevin steps, image by image, with the α of single steps on a spaced chain."""
    chain = ab.Chain(SHORT, times=(10, 6, 3, 1, 0))
    sampler = ab.samplers.PredictorCorrector(snr=0.3, corrector_steps=steps)
    noise = InjectedNoise(NOISE[: (1 + steps) * 3])
    actual = [f.x for f in ab.trajectory(denoiser_of(SHORT), sampler, x_T, chain, noise)]
    assert noise.left == 0
    queue = iter(z.numpy() for z in NOISE)
    x = x_T.numpy()
    for t, s, frame in zip(chain.times, chain.times[1:], actual, strict=False):
        abar_t, abar_s = SHORT.alpha_bar[t].item(), SHORT.alpha_bar[s].item()
        on_x0, on_x_t, var = condition(abar_t, abar_s)
        x = on_x0 * ATOMS.x0_star(x, abar_t) + on_x_t * x
        if s > 0:
            x = x + var**0.5 * next(queue)
            for _ in range(steps):
                score = (abar_s**0.5 * ATOMS.x0_star(x, abar_s) - x) / (1 - abar_s)
                z, alpha = next(queue), abar_s / SHORT.alpha_bar[s - 1].item()
                x = np.stack([solvers.langevin(g, one, n, 0.3, alpha) for g, one, n in zip(score, x, z, strict=True)])
        np.testing.assert_allclose(frame.numpy(), x, rtol=1e-9, atol=1e-9)


def test_an_image_without_a_score_stays_where_it_is() -> None:
    """ε̂ = 0 has no step size; its neighbour moves as if alone."""
    score = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]).double()
    x, z = x_T[:2], NOISE[0][:2]
    moved = ab.samplers.predictor_corrector.langevin(score, x, z, 0.16, 0.9)
    assert torch.equal(moved[0], x[0])
    assert torch.equal(moved[1:], ab.samplers.predictor_corrector.langevin(score[1:], x[1:], z[1:], 0.16, 0.9))
    assert (moved[1] - x[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ab.samplers.PredictorCorrector(snr=0), "snr"),
        (lambda: ab.samplers.PredictorCorrector(snr=float("nan")), "snr"),
        (lambda: ab.samplers.PredictorCorrector(corrector_steps=0), "corrector_steps"),
    ],
)
def test_settings_out_of_range(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ab.AlphabarError, match=words):
        make()
