"""What the samplers do to Gaussian data, exactly: every mean and variance from impulse responses, no Monte Carlo.

With the optimal denoiser a sampler is affine in (x_T, noise_1, noise_2, …).  A batch with one row per input (all zero;
x_T = a; one noise = a) reads off every coefficient: row 0 is the mean, the squared differences add up to the variance.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import alphabar as ab
from noise import InjectedNoise
from oracles.gaussian import Gaussian, hop_variances
from oracles.nets import ExactNet

DATA = Gaussian(np.array([0.3, -0.5, 0.0, 1.0]), np.array([4.0, 1.0, 0.25, 0.01]))
AMPLITUDE = 5.0  # far outside [−1, 1], so that a stray clip shows
SHORT = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
PAPER = ab.schedules.Linear(T=1000).build()
CHAINS = {
    "T=10": ab.Chain.full(SHORT),
    "T=10, 3 hops": ab.Chain(SHORT, times=(10, 4, 1, 0)),
    "T=10, one hop": ab.Chain(SHORT, times=(10, 0)),
    "T=1000": ab.Chain.full(PAPER),
    "T=1000, 20 uniform": ab.Chain.spaced(PAPER, 20, spacing="uniform"),
    "T=1000, 20 trailing": ab.Chain.spaced(PAPER, 20, spacing="trailing"),
}
VARIANCES = {"small": ab.FixedSmall, "large": ab.FixedLarge}


def abars(chain: ab.Chain) -> list[float]:
    """ᾱ at every visited time."""
    return [chain.schedule.alpha_bar[t].item() for t in chain.times]


def measured_moments(denoiser: ab.Denoiser, sampler: object, chain: ab.Chain) -> list[tuple[np.ndarray, np.ndarray]]:
    """Exact (mean, variance) of x at every frame, with independent unit noise at every hop but the last."""
    hops = len(chain.times) - 1
    dims = len(DATA.mean)
    inputs = torch.zeros(hops, hops + 1, 1, 2, dims // 2, dtype=torch.float64)
    for source in range(hops):
        inputs[source, source + 1] = AMPLITUDE
    noise = InjectedNoise(inputs[1:])
    moments = []
    times = []
    for frame in ab.trajectory(denoiser, sampler, inputs[0], chain, noise):
        rows = frame.x.reshape(hops + 1, dims).numpy()
        moments.append((rows[0], (((rows[1:] - rows[0]) / AMPLITUDE) ** 2).sum(0)))
        times.append(frame.t)
    assert times == list(chain.times[1:])
    return moments


def exact_denoiser(chain: ab.Chain, variance: object) -> ab.Denoiser:
    """The optimal ε network, unclipped."""
    net = ExactNet(DATA, chain.schedule.alpha_bar)
    return ab.Denoiser(net, chain.schedule, prediction=ab.Eps(), variance=variance, clip=None, shape=(1, 2, 2))


def assert_moments(measured: list, expected: list) -> None:
    """Every frame, mean and variance."""
    assert len(measured) == len(expected)
    for (mean, var), (expected_mean, expected_var) in zip(measured, expected, strict=True):
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(var, expected_var, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("kind", VARIANCES)
def test_ancestral(kind: str, chain: ab.Chain) -> None:
    """Algorithm 2 at every time it reaches; the last hop adds no noise."""
    expected = DATA.ancestral_moments(abars(chain), hop_variances(abars(chain), kind))
    assert_moments(measured_moments(exact_denoiser(chain, VARIANCES[kind]()), ab.samplers.Ancestral(), chain), expected)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float, chain: ab.Chain) -> None:
    """Eq. 12 of Song et al.; the network's variance plays no part."""
    expected = DATA.ddim_moments(abars(chain), eta)
    assert_moments(measured_moments(exact_denoiser(chain, ab.FixedLarge()), ab.samplers.DDIM(eta=eta), chain), expected)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_ddim_is_a_known_map(chain: ab.Chain) -> None:
    """η = 0: every image lands where the closed product says."""
    x_T = torch.tensor([[1.0, -2.0, 0.3, 4.0], [-0.1, 3.0, -5.0, 0.7]], dtype=torch.float64).reshape(2, 1, 2, 2)
    x = ab.sample(
        exact_denoiser(chain, ab.FixedSmall()),
        ab.samplers.DDIM(eta=0.0),
        x_T,
        chain,
        InjectedNoise([torch.zeros_like(x_T)] * (len(chain.times) - 1)),
    )
    expected = DATA.ddim_map(abars(chain), x_T.reshape(2, 4).numpy())
    np.testing.assert_allclose(x.reshape(2, 4).numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["T=10", "T=10, 3 hops"])
def test_previews_are_the_denoisers_estimate(name: str) -> None:
    """Frame.x0 is E[x0 | x_t] of the state the hop started from."""
    chain = CHAINS[name]
    hops = len(chain.times) - 1
    x_t = torch.full((1, 1, 2, 2), 0.7, dtype=torch.float64)
    noise = InjectedNoise([torch.full_like(x_t, 0.4)] * (hops - 1))
    for abar_t, frame in zip(
        abars(chain),
        ab.trajectory(exact_denoiser(chain, ab.FixedSmall()), ab.samplers.Ancestral(), x_t, chain, noise),
        strict=False,
    ):
        slope, offset = DATA.x0_coefficients(abar_t)
        np.testing.assert_allclose(frame.x0.reshape(4).numpy(), slope * x_t.reshape(4).numpy() + offset, atol=1e-10)
        x_t = frame.x
    assert noise.left == 0


def test_the_network_is_asked_for_every_time_once() -> None:
    """Indices T−1 … 0 on the full chain, t−1 of the visited times on another."""
    for chain in (CHAINS["T=10"], CHAINS["T=10, 3 hops"]):
        net = ExactNet(DATA, chain.schedule.alpha_bar)
        denoiser = ab.Denoiser(net, chain.schedule, clip=None, shape=(1, 2, 2))
        x_T = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
        ab.sample(denoiser, ab.samplers.Ancestral(), x_T, chain, InjectedNoise([x_T] * len(chain.times)))
        assert net.seen == [[t - 1] for t in chain.times[:-1]]
