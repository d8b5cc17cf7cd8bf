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
from oracles.gaussian import Gaussian, corrected_variances, hop_variances
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


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_sde_dpm_solver(chain: ab.Chain) -> None:
    """Every frame of SDE-DPM-Solver++(2M); the network's variance plays no part."""
    denoiser = exact_denoiser(chain, ab.FixedLarge())
    expected = DATA.sde_2m_moments(abars(chain))
    assert_moments(measured_moments(denoiser, ab.samplers.SDEDPMSolverPP2M(), chain), expected)


def deviations(schedule: ab.Schedule, steps: int, spacing: str) -> np.ndarray:
    """Of SDE-DPM-Solver++(2M)'s samples over that of the data, of variances 100, 1 and 0.01."""
    data = Gaussian(np.zeros(3), np.array([100.0, 1.0, 0.01]))
    _, var = data.sde_2m_moments(abars(ab.Chain.spaced(schedule, steps, spacing)))[-1]
    return np.sqrt(var / data.var)


@pytest.mark.parametrize(("steps", "least"), [(10, 0.72), (20, 0.94), (50, 0.98)])
def test_few_steps_even_in_the_signal_to_noise_ratio_keep_contrast_and_detail(steps: int, least: float) -> None:
    """At every variance, on any schedule alike. Even in t: on the cosine schedule neither, on the linear no detail."""
    cosine, linear = ab.schedules.Cosine().build(), PAPER
    kept = deviations(cosine, steps, "logsnr")
    assert kept.min() > least and kept.max() < 1.05
    np.testing.assert_allclose(deviations(linear, steps, "logsnr"), kept, atol=0.02)
    for schedule, lost in ((cosine, [0, 2]), (linear, [2])):
        even = deviations(schedule, steps, "uniform")
        assert (np.abs(1 - even)[lost] > 1.4 * np.abs(1 - kept)[lost]).all()


def even(T: int) -> ab.Schedule:
    """λ falls evenly from 4 at t = 1 to −4 at t = T."""
    lam = torch.linspace(4, -4, T, dtype=torch.float64)
    return ab.Schedule.from_alpha_bar(torch.sigmoid(2 * lam))


def slope(steps: list[int], errors: list[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


# all that draw noise but those of order 0, which stop at an error of their own (below)
CONVERGING = [rule for rule in (ab.SAMPLERS[name]() for name in ab.SAMPLERS) if rule.stochastic and rule.order > 0]


@pytest.mark.parametrize("sampler", [*CONVERGING, ab.samplers.DDIM(eta=1.0)], ids=str)
def test_variances_converge_with_the_declared_order(sampler: ab.Sampler) -> None:
    """To ᾱ var + 1 − ᾱ at t = 1, for variances above and below 1, by regression of log error on log steps, ±0.3."""
    steps = [51, 101, 201, 401]
    chains = [ab.Chain.spaced(even(2001), n) for n in steps]
    abar_1 = chains[0].schedule.alpha_bar[1].item()
    ends = [measured_moments(exact_denoiser(chain, ab.FixedSmall()), sampler, chain)[-2][1] for chain in chains]
    for pixel, exact in enumerate(DATA.marginal_var(abar_1)):
        errors = [abs(end[pixel] - exact) for end in ends]
        # the variance of a pixel of variance 1 is nearly right at any number of steps
        if exact != pytest.approx(1.0):
            assert slope(steps, errors) == pytest.approx(sampler.order, abs=0.3), pixel
    assert np.abs(ends[-1] - DATA.marginal_var(abar_1)).max() < (0.2 if sampler.order == 1 else 1e-3)


class OrthogonalNoise:
    """Every draw is a new axis of the image, of length √D: what independent noise is in infinitely many dimensions."""

    def __init__(self, dims: int) -> None:
        self.axes = iter(torch.eye(dims, dtype=torch.float64) * dims**0.5)

    def randn_like(self, x: torch.Tensor) -> torch.Tensor:
        return next(self.axes).reshape(x.shape)


def corrected(chain: ab.Chain, sampler: ab.samplers.PredictorCorrector, var: float) -> list[float]:
    """Exact variances by the library."""
    dims = 1 + (len(chain) - 1) * (1 + sampler.corrector_steps)
    data = Gaussian(np.zeros(dims), np.full(dims, var))
    net = ExactNet(data, chain.schedule.alpha_bar)
    denoiser = ab.Denoiser(net, chain.schedule, variance=ab.FixedSmall(), clip=None, shape=(1, 1, dims))
    noise = OrthogonalNoise(dims)
    x_T = noise.randn_like(torch.zeros(1, 1, 1, dims, dtype=torch.float64))
    return [f.x.square().mean().item() for f in ab.trajectory(denoiser, sampler, x_T, chain, noise)]


@pytest.mark.parametrize("var", [0.01, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", ["T=10", "T=10, 3 hops", "T=10, one hop", "T=1000, 20 uniform"])
def test_predictor_and_corrector(name: str, steps: int, var: float) -> None:
    chain, sampler = CHAINS[name], ab.samplers.PredictorCorrector(snr=0.2, corrector_steps=steps)
    abar = chain.schedule.alpha_bar
    alphas = [(abar[s] / abar[s - 1]).item() for s in chain.times[1:-1]]
    variances = hop_variances(abars(chain), "small")
    expected = corrected_variances(var, abars(chain), variances, alphas, 0.2, steps)
    np.testing.assert_allclose(corrected(chain, sampler, var), expected, rtol=1e-9)


def test_langevin_steps_correct_the_predictor_up_to_an_error_of_their_own() -> None:
    """In few hops they repair what the predictor did; in many they leave c/(1 − δ/2c) = c/(1 − α r²): order 0."""
    few, many = ab.Chain.spaced(even(2001), 10), ab.Chain.spaced(even(2001), 200)
    var, abar = 0.25, few.schedule.alpha_bar
    exact = (abar[1] * var + 1 - abar[1]).item()

    def error(chain: ab.Chain, steps: int, snr: float = 0.16) -> float:
        variances, alphas = (
            hop_variances(abars(chain), "small"),
            [(abar[s] / abar[s - 1]).item() for s in chain.times[1:-1]],
        )
        return corrected_variances(var, abars(chain), variances, alphas, snr, steps)[-2] / exact - 1

    assert abs(error(few, 5)) < abs(error(few, 1)) / 2 < abs(error(few, 0)) / 2
    floor = 1 / (1 - 0.16**2) - 1
    assert error(many, 30) == pytest.approx(floor, rel=0.05)
    assert ab.samplers.PredictorCorrector().order == 0
