"""Samplers that must coincide, and the two cases in which Algorithm 2 is exact (Ho et al., section 3.2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from noise import InjectedNoise, SeededNoise
from oracles.discrete import Atoms
from oracles.gaussian import Gaussian
from oracles.nets import ExactNet

SHORT = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
CHAINS = [ab.Chain.full(SHORT), ab.Chain(SHORT, times=(10, 7, 4, 1, 0))]
ATOMS = Atoms(np.array([-0.8, -0.1, 0.2, 0.9]), np.array([0.1, 0.2, 0.3, 0.4]))


def noises(count: int, rows: int = 6) -> list[Tensor]:
    """Fixed, arbitrary numbers; no randomness."""
    return [
        torch.sin(torch.arange(rows * 4, dtype=torch.float64) * 1.7 + i).reshape(rows, 1, 2, 2) * 2
        for i in range(count)
    ]


def denoiser_of(data: Gaussian | Atoms, variance: object, target: str = "eps") -> ab.Denoiser:
    """The optimal network."""
    predictions = {"eps": ab.Eps, "x0": ab.X0, "v": ab.V, "score": ab.Score}
    net = ExactNet(data, SHORT.alpha_bar, target)
    return ab.Denoiser(net, SHORT, prediction=predictions[target](), variance=variance, clip=None, shape=(1, 2, 2))


@pytest.mark.parametrize("chain", CHAINS, ids=["full", "spaced"])
def test_ddim_1_is_ancestral_with_small_variance(chain: ab.Chain) -> None:
    """The same noise gives the same images, for data that are not Gaussian."""
    x_T, *rest = noises(len(chain.times))
    denoiser = denoiser_of(ATOMS, ab.FixedSmall())
    one = ab.sample(denoiser, ab.samplers.DDIM(eta=1.0), x_T, chain, InjectedNoise(rest))
    other = ab.sample(denoiser, ab.samplers.Ancestral(), x_T, chain, InjectedNoise(rest))
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert (one - ab.sample(denoiser, ab.samplers.DDIM(eta=0.5), x_T, chain, InjectedNoise(rest))).abs().max() > 1e-3


@pytest.mark.parametrize(
    "sampler", [ab.samplers.Ancestral(), ab.samplers.DDIM(eta=0.0), ab.samplers.DDIM(eta=0.7)], ids=str
)
@pytest.mark.parametrize("target", ["x0", "v", "score"])
def test_the_parametrisation_does_not_matter(target: str, sampler: object) -> None:
    """An exact network samples the same images whatever it predicts."""
    x_T, *rest = noises(10)
    chain = CHAINS[0]
    expected = ab.sample(denoiser_of(ATOMS, ab.FixedSmall()), sampler, x_T, chain, InjectedNoise(rest))
    actual = ab.sample(denoiser_of(ATOMS, ab.FixedSmall(), target), sampler, x_T, chain, InjectedNoise(rest))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def impulse_variances(denoiser: ab.Denoiser, chain: ab.Chain) -> list[np.ndarray]:
    """Exact Var[x] at every frame."""
    hops = len(chain.times) - 1
    inputs = torch.zeros(hops, hops + 1, 1, 2, 2, dtype=torch.float64)
    for source in range(hops):
        inputs[source, source + 1] = 1.0
    frames = ab.trajectory(denoiser, ab.samplers.Ancestral(), inputs[0], chain, InjectedNoise(inputs[1:]))
    return [((frame.x[1:] - frame.x[0]) ** 2).sum(0).reshape(4).numpy() for frame in frames]


@pytest.mark.parametrize("chain", CHAINS, ids=["full", "spaced"])
def test_large_variance_is_exact_for_the_standard_normal(chain: ab.Chain) -> None:
    """x0 ~ N(0, I): Var stays 1 at every time; the noiseless last hop leaves ᾱ of the time it came from."""
    variances = impulse_variances(denoiser_of(Gaussian(np.zeros(4), np.ones(4)), ab.FixedLarge()), chain)
    expected = [1.0] * (len(variances) - 1) + [SHORT.alpha_bar[chain.times[-2]].item()]
    for var, value in zip(variances, expected, strict=True):
        assert var == pytest.approx(np.full(4, value), rel=1e-12)


def from_the_points_own_noise(chain: ab.Chain, kind: object) -> list[np.ndarray]:
    """Exact Var[x] when x_T already has the variance 1 − ᾱ_T that noising a point gives."""
    hops = len(chain.times) - 1
    point = Gaussian(np.array([0.3, -0.5, 0.0, 1.0]), np.zeros(4))
    inputs = torch.zeros(hops, hops + 1, 1, 2, 2, dtype=torch.float64)
    for source in range(hops):
        inputs[source, source + 1] = 1.0
    inputs[0, 1] = (1.0 - SHORT.alpha_bar[chain.times[0]].item()) ** 0.5
    inputs[0] += SHORT.alpha_bar[chain.times[0]].item() ** 0.5 * torch.from_numpy(point.mean).reshape(1, 1, 2, 2)
    frames = list(
        ab.trajectory(denoiser_of(point, kind), ab.samplers.Ancestral(), inputs[0], chain, InjectedNoise(inputs[1:]))
    )
    for frame in frames:
        abar_s = SHORT.alpha_bar[frame.t].item()
        assert frame.x[0].reshape(4).numpy() == pytest.approx(abar_s**0.5 * point.mean, abs=1e-12)
    assert frames[-1].x.reshape(-1, 4).numpy() == pytest.approx(np.tile(point.mean, (hops + 1, 1)), abs=1e-12)
    return [((frame.x[1:] - frame.x[0]) ** 2).sum(0).reshape(4).numpy() for frame in frames]


@pytest.mark.parametrize("chain", CHAINS, ids=["full", "spaced"])
def test_small_variance_is_exact_for_a_point(chain: ab.Chain) -> None:
    """One image: Var = 1 − ᾱ_s at every time, and the sampler returns the image itself; β does not do this."""
    for frame_var, s in zip(from_the_points_own_noise(chain, ab.FixedSmall()), chain.times[1:], strict=True):
        assert frame_var == pytest.approx(np.full(4, 1.0 - SHORT.alpha_bar[s].item()), abs=1e-12)
    large = from_the_points_own_noise(chain, ab.FixedLarge())
    assert abs(large[1][0] - (1.0 - SHORT.alpha_bar[chain.times[2]].item())) > 1e-2


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "leading", "trailing", "logsnr"])
@pytest.mark.parametrize("sampler", [ab.samplers.Ancestral(), ab.samplers.DDIM(eta=0.0)], ids=str)
def test_a_spaced_chain_of_all_steps_is_the_full_chain(sampler: object, spacing: str) -> None:
    """Bit for bit."""
    denoiser = denoiser_of(ATOMS, ab.FixedLarge())
    x_T = noises(1)[0]
    spaced = ab.Chain.spaced(SHORT, 10, spacing=spacing)
    full = ab.sample(denoiser, sampler, x_T, ab.Chain.full(SHORT), SeededNoise(3))
    assert ab.sample(denoiser, sampler, x_T, spaced, SeededNoise(3)).equal(full)


def test_sample_is_the_last_frame() -> None:
    """Two names for one loop."""
    denoiser = denoiser_of(ATOMS, ab.FixedSmall())
    x_T = noises(1)[0]
    *_, last = ab.trajectory(denoiser, ab.samplers.Ancestral(), x_T, CHAINS[0], SeededNoise(5))
    assert last.t == 0
    assert ab.sample(denoiser, ab.samplers.Ancestral(), x_T, CHAINS[0], SeededNoise(5)).equal(last.x)


def test_noise_is_drawn_for_every_hop_but_the_last() -> None:
    """T − 1 draws, also on a spaced chain; deterministic DDIM may ignore its noise, never depend on it."""
    denoiser = denoiser_of(ATOMS, ab.FixedSmall())
    for chain in CHAINS:
        x_T, *rest = noises(len(chain.times) - 1)
        noise = InjectedNoise(rest)
        ab.sample(denoiser, ab.samplers.Ancestral(), x_T, chain, noise)
        assert noise.left == 0
        one = ab.sample(denoiser, ab.samplers.DDIM(eta=0.0), x_T, chain, SeededNoise(1))
        assert ab.sample(denoiser, ab.samplers.DDIM(eta=0.0), x_T, chain, SeededNoise(2)).equal(one)
