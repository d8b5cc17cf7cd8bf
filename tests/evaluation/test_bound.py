"""The variational bound against closed forms, quadrature and the true likelihood; never against a sample average.

Gaussian data enter as sigma points (their batch mean *is* the expectation of a quadratic), one-pixel data as
quadrature nodes.  The points lie inside [−1, 1], where the decoder is defined.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from noise import FixedNoise, InjectedNoise, SeededNoise
from oracles import constants, decoder
from oracles.discrete import NORMAL_NODES, NORMAL_WEIGHTS, Atoms
from oracles.gaussian import Gaussian, condition, hop_variances, sigma_points
from oracles.nets import ExactNet

DATA = Gaussian(np.array([0.1, -0.2, 0.0, 0.3]), np.array([0.08, 0.05, 0.01, 0.0004]))
ATOMS = Atoms(decoder.GRID[[30, 100, 140, 220]], np.array([0.1, 0.2, 0.3, 0.4]))
SHORT = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
PAPER = ab.schedules.Linear(T=1000).build()
CHAINS = {
    "T=10": ab.Chain.full(SHORT),
    "T=10, 3 hops": ab.Chain(SHORT, times=(10, 4, 1, 0)),
    "T=1000": ab.Chain.full(PAPER),
    "T=1000, 20 hops": ab.Chain.spaced(PAPER, 20, spacing="uniform"),
}


class FixedRng(FixedNoise, ab.Rng):
    """The kind of source that ``hops=`` insists on, with its noise fixed: only the choice of hops stays random."""


VARIANCES = {"small": ab.FixedSmall, "large": ab.FixedLarge}


def abars(chain: ab.Chain) -> list[float]:
    """ᾱ at every visited time."""
    return [chain.schedule.alpha_bar[t].item() for t in chain.times]


def hops_of(chain: ab.Chain, kind: str, floor: float | None = None) -> list[tuple[float, float, float]]:
    """(ᾱ_t, ᾱ_s, σ²) of every hop."""
    return list(zip(abars(chain)[:-1], abars(chain)[1:], hop_variances(abars(chain), kind, floor), strict=True))


def exact_denoiser(
    data: Gaussian | Atoms, schedule: ab.Schedule, kind: str, shape: tuple[int, int, int] = (1, 2, 2)
) -> ab.Denoiser:
    """The optimal ε network, unclipped."""
    net = ExactNet(data, schedule.alpha_bar)
    return ab.Denoiser(net, schedule, prediction=ab.Eps(), variance=VARIANCES[kind](), clip=None, shape=shape)


def sigma_batch(data: Gaussian = DATA) -> tuple[Tensor, Tensor]:
    """(x0, ε) as images [16, 1, 2, 2] whose batch mean is the expectation over data and noise."""
    standard, noise = sigma_points(len(data.mean))
    x0 = data.mean + data.var**0.5 * standard
    assert np.abs(x0).max() <= 1.0
    return torch.from_numpy(x0).reshape(-1, 1, 2, 2), torch.from_numpy(noise).reshape(-1, 1, 2, 2)


def close(actual: Tensor | float, expected: object, tolerance: float = 1e-8) -> None:
    """Relative comparison; the absolute part only matters at zero."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=1e-13)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("kind", VARIANCES)
def test_closed_form_per_hop(kind: str, chain: ab.Chain) -> None:
    """L_T and every L_{t−1}, from t = T down to 2."""
    x0, eps = sigma_batch()
    bound = ab.variational_bound(exact_denoiser(DATA, chain.schedule, kind), x0, chain, FixedNoise(eps))
    assert bound.terms_nats.shape == (len(x0), len(chain.times) - 2)
    close(bound.prior_nats.mean(), DATA.prior_kl(abars(chain)[0]))
    close(bound.terms_nats.mean(0), [DATA.kl_term(*hop) for hop in hops_of(chain, kind)[:-1]])


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("kind", VARIANCES)
def test_per_image_values(kind: str, chain: ab.Chain) -> None:
    """Not only the average: every image's L_T, L_{t−1} and L_0 from numpy, and how they add up to bits/dim."""
    x0, eps = sigma_batch()
    x0 = torch.round((x0 + 1) * 127.5) / 127.5 - 1
    bound = ab.variational_bound(exact_denoiser(DATA, chain.schedule, kind), x0, chain, FixedNoise(eps))
    data, noise = x0.reshape(16, 4).numpy(), eps.reshape(16, 4).numpy()

    def x0_hat(abar: float) -> np.ndarray:
        slope, offset = DATA.x0_coefficients(abar)
        return slope * (abar**0.5 * data + (1 - abar) ** 0.5 * noise) + offset

    *inner, (abar_1, _, floor) = hops_of(chain, kind)
    expected = []
    for abar_t, abar_s, sigma2 in inner:
        on_x0, _, tilde = condition(abar_t, abar_s)
        squared = (on_x0 * (data - x0_hat(abar_t))) ** 2 / sigma2
        expected.append(0.5 * (tilde / sigma2 - 1 - np.log(tilde / sigma2) + squared).sum(1))
    close(bound.terms_nats, np.stack(expected, axis=1))
    abar_T = abars(chain)[0]
    close(bound.prior_nats, 0.5 * (abar_T * data**2 - abar_T - np.log1p(-abar_T)).sum(1))
    log_p = decoder.log_prob(data, x0_hat(abar_1), np.log(floor))
    close(bound.decoder_nats, -log_p.sum(1))
    close(bound.nats, bound.prior_nats + bound.terms_nats.sum(1) + bound.decoder_nats, 1e-12)
    close(bound.bits_per_dim, bound.nats / (4 * np.log(2)), 1e-12)
    assert bound.nats.shape == bound.bits_per_dim.shape == (16,)


def test_one_draw_per_hop_in_order() -> None:
    """T draws; the noise of hop i moves term i and no other, the last one moves L_0."""
    chain = CHAINS["T=10"]
    x0, eps = sigma_batch()
    denoiser = exact_denoiser(DATA, SHORT, "small")
    still = InjectedNoise([torch.zeros_like(x0)] * 10)
    base = ab.variational_bound(denoiser, x0, chain, still)
    assert still.left == 0
    for moved in range(10):
        noise = InjectedNoise([eps if i == moved else torch.zeros_like(x0) for i in range(10)])
        bound = ab.variational_bound(denoiser, x0, chain, noise)
        changed = (bound.terms_nats - base.terms_nats).abs().amax(0) > 1e-9
        assert changed.tolist() == [i == moved for i in range(9)]
        assert bool((bound.decoder_nats - base.decoder_nats).abs().max() > 1e-9) == (moved == 9)
        assert bound.prior_nats.equal(base.prior_nats)


def test_a_point_costs_nothing_with_small_variance() -> None:
    """One known image: every L_{t−1} is 0 with β̃, and 1.84 nats in all (three pixels) are lost with β."""
    point = Gaussian(decoder.GRID[[10, 77, 128, 250]], np.zeros(4))
    x0 = torch.from_numpy(point.mean).reshape(1, 1, 2, 2)
    noise = FixedNoise(torch.tensor([[[[1.0, -2.0], [0.3, 0.7]]]], dtype=torch.float64))
    chain = CHAINS["T=10"]
    small = ab.variational_bound(exact_denoiser(point, SHORT, "small"), x0, chain, noise)
    assert small.terms_nats.abs().max().item() < 1e-12
    large = ab.variational_bound(exact_denoiser(point, SHORT, "large"), x0, chain, noise)
    assert large.terms_nats.sum().item() * 3 / 4 == pytest.approx(1.84, abs=5e-3)


def one_pixel_bound(chain: ab.Chain, kind: str) -> tuple[float, float, float]:
    """(L_T, Σ L_{t−1}, L_0) of the library, integrated over atoms and noise by quadrature nodes."""
    nodes = len(NORMAL_NODES)
    x0 = torch.from_numpy(np.repeat(ATOMS.values, nodes)).reshape(-1, 1, 1, 1)
    noise = torch.from_numpy(np.tile(NORMAL_NODES, len(ATOMS.values))).reshape(-1, 1, 1, 1)
    weights = np.outer(ATOMS.probs, NORMAL_WEIGHTS).reshape(-1)
    denoiser = exact_denoiser(ATOMS, chain.schedule, kind, shape=(1, 1, 1))
    bound = ab.variational_bound(denoiser, x0, chain, FixedNoise(noise))
    parts = bound.prior_nats, bound.terms_nats.sum(1), bound.decoder_nats
    return tuple(float(weights @ part.numpy()) for part in parts)


@pytest.mark.parametrize("times", [tuple(range(10, -1, -1)), (10, 6, 3, 1, 0)], ids=["full", "spaced"])
@pytest.mark.parametrize("floor", ["default", "beta"])
@pytest.mark.parametrize("kind", VARIANCES)
def test_one_pixel_data(kind: str, floor: str, times: tuple[int, ...]) -> None:
    """Bound ≥ true negative log-likelihood ≥ entropy, the first from the library, each part to 1e-9."""
    floor = 1.0 - SHORT.alpha_bar[1].item() if floor == "beta" else None
    chain = ab.Chain(SHORT, times=times, var_floor=floor)
    hops = hops_of(chain, kind, floor)
    prior, terms, decoding = one_pixel_bound(chain, kind)
    close(prior, ATOMS.prior_kl(hops[0][0]), 1e-9)
    close(terms, sum(ATOMS.kl_term(*hop) for hop in hops[:-1]), 1e-9)
    close(decoding, ATOMS.decoder_nats(hops[-1][0], hops[-1][2]), 1e-9)
    nll = ATOMS.nll_nats(abars(chain), [hop[2] for hop in hops])
    assert prior + terms + decoding > nll > ATOMS.entropy() == pytest.approx(1.27985, abs=1e-5)


def test_at_ten_steps_the_bound_and_the_likelihood_disagree() -> None:
    """The bound prefers β, the likelihood β̃: a trap for anyone who equates them (exactness B2)."""
    chain = CHAINS["T=10"]
    large_floor = 1.0 - SHORT.alpha_bar[1].item()
    large_chain = ab.Chain(SHORT, times=chain.times, var_floor=large_floor)
    assert sum(one_pixel_bound(large_chain, "large")) < sum(one_pixel_bound(chain, "small"))
    small_nll = ATOMS.nll_nats(abars(chain), hop_variances(abars(chain), "small"))
    assert small_nll < ATOMS.nll_nats(abars(chain), hop_variances(abars(chain), "large", large_floor))


def test_learned_variance_enters_the_bound() -> None:
    """A network that outputs ln σ² per pixel: the KL uses it, pixel by pixel."""
    chain = CHAINS["T=10"]
    inner = ExactNet(DATA, SHORT.alpha_bar)
    head = torch.tensor([[-3.0, -2.0], [-1.0, -4.0]], dtype=torch.float64)

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        return torch.cat([inner(x_t, index), head.expand_as(x_t)], dim=1)

    denoiser = ab.Denoiser(net, SHORT, prediction=ab.Eps(), variance=ab.Learned(), clip=None, shape=(1, 2, 2))
    x0, eps = sigma_batch()
    bound = ab.variational_bound(denoiser, x0, chain, FixedNoise(eps))
    expected = []
    pixels = [Gaussian(DATA.mean[[i]], DATA.var[[i]]) for i in range(4)]
    for abar_t, abar_s in zip(abars(chain)[:-2], abars(chain)[1:-1], strict=True):
        sigma2 = head.exp().reshape(4).tolist()
        expected.append(sum(pixel.kl_term(abar_t, abar_s, s2) for pixel, s2 in zip(pixels, sigma2, strict=True)))
    close(bound.terms_nats.mean(0), expected)


def test_the_bound_clips_as_the_papers_evaluation_does() -> None:
    """With a clipping denoiser the mean comes from the clipped x0: a wild network costs less."""
    chain = CHAINS["T=10"]
    x0 = torch.from_numpy(decoder.GRID[[0, 255, 200, 40]]).reshape(1, 1, 2, 2)
    noise = torch.zeros_like(x0)

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        return 5.0 * x0.expand_as(x_t)

    clipped = ab.Denoiser(net, SHORT, prediction=ab.X0(), clip=ab.Clip(1.0), shape=(1, 2, 2))
    same = ab.Denoiser(
        lambda x_t, index: (5.0 * x0).clamp(-1, 1), SHORT, prediction=ab.X0(), clip=None, shape=(1, 2, 2)
    )
    actual = ab.variational_bound(clipped, x0, chain, FixedNoise(noise))
    close(actual.nats, ab.variational_bound(same, x0, chain, FixedNoise(noise)).nats, 1e-12)


def test_the_papers_schedule_reaches_the_prior() -> None:
    """L_T ≈ 1e-5 bits/dim."""
    x0 = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    bound = ab.variational_bound(exact_denoiser(DATA, PAPER, "small"), x0, CHAINS["T=1000, 20 hops"], SeededNoise(0))
    per_dim = bound.prior_nats.item() / 4 / np.log(2)
    assert per_dim == pytest.approx(constants.LINEAR_PRIOR_BITS_PER_DIM[0.25], rel=1e-3)


def test_a_single_hop_has_no_middle() -> None:
    """T = 1: L_T + L_0."""
    chain = ab.Chain(SHORT, times=(10, 0))
    x0, eps = sigma_batch()
    bound = ab.variational_bound(exact_denoiser(DATA, SHORT, "small"), x0, chain, FixedNoise(eps))
    assert bound.terms_nats.shape == (16, 0)
    close(bound.nats, bound.prior_nats + bound.decoder_nats, 1e-12)


@pytest.mark.parametrize("name", ["T=10", "T=10, 3 hops"])
def test_all_hops_is_the_full_bound(name: str) -> None:
    """K = every hop but the last leaves nothing to chance."""
    chain = CHAINS[name]
    x0, eps = sigma_batch()
    denoiser = exact_denoiser(DATA, SHORT, "small")
    full = ab.variational_bound(denoiser, x0, chain, FixedNoise(eps))
    estimate = ab.variational_bound(denoiser, x0, chain, FixedRng(eps), hops=len(chain.times) - 2)
    close(estimate.nats, full.nats, 1e-12)
    close(estimate.bits_per_dim, full.bits_per_dim, 1e-12)


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_the_estimate_is_unbiased(hops: int) -> None:
    """Only the choice of hops is random here (one ε for all), so 4000 images settle it: five standard errors.

    Hop 10 → 9 and hop 2 → 1 differ by orders of magnitude, so a wrong stratum weight or a hop left out shows.
    """
    chain = CHAINS["T=10"]
    copies = 4000
    x0 = torch.tensor([[[[0.5, -0.6], [0.2, 0.3]]]], dtype=torch.float64)
    eps = torch.tensor([[[[1.0, -0.4], [0.9, 2.0]]]], dtype=torch.float64)
    denoiser = exact_denoiser(DATA, SHORT, "large")
    full = ab.variational_bound(denoiser, x0, chain, FixedNoise(eps)).nats.item()
    many = x0.expand(copies, -1, -1, -1)
    noise = FixedRng(eps.expand_as(many), seed=hops)
    estimates = ab.variational_bound(denoiser, many, chain, noise, hops=hops).nats
    assert noise.calls == hops + 1
    standard_error = estimates.std().item() / copies**0.5
    assert standard_error > 0
    assert abs(estimates.mean().item() - full) < 5 * standard_error


def test_the_exact_average_over_all_draws_is_the_bound() -> None:
    """hops = 1: the distinct estimates are exactly (T−1)·L_{t−1} + L_T + L_0, one per t; their mean is the bound."""
    chain = CHAINS["T=10"]
    x0 = torch.tensor([[[[0.5, -0.6], [0.2, 0.3]]]], dtype=torch.float64)
    eps = torch.tensor([[[[1.0, -0.4], [0.9, 2.0]]]], dtype=torch.float64)
    denoiser = exact_denoiser(DATA, SHORT, "large")
    full = ab.variational_bound(denoiser, x0, chain, FixedNoise(eps))
    many = x0.expand(500, -1, -1, -1)
    estimates = ab.variational_bound(denoiser, many, chain, FixedRng(eps.expand_as(many)), hops=1).nats
    expected = (full.prior_nats + full.decoder_nats + 9 * full.terms_nats[0]).sort().values
    close(np.unique(np.round(estimates.numpy(), 9)), expected, 1e-8)


@pytest.mark.parametrize("hops", [0, 10])
def test_impossible_hop_counts_are_refused(hops: int) -> None:
    """1 … T − 1."""
    x0, eps = sigma_batch()
    with pytest.raises((ValueError, ab.AlphabarError)):
        ab.variational_bound(exact_denoiser(DATA, SHORT, "small"), x0, CHAINS["T=10"], FixedRng(eps), hops=hops)


def test_the_standard_error_is_that_of_the_mean_over_images() -> None:
    """s/√B with the unbiased s, of the bits per dimension."""
    x0, eps = sigma_batch()
    bound = ab.variational_bound(exact_denoiser(DATA, SHORT, "small"), x0, CHAINS["T=10"], FixedNoise(eps))
    bits = bound.bits_per_dim.numpy()
    close(bound.standard_error, bits.std(ddof=1) / len(bits) ** 0.5, 1e-12)


@pytest.mark.parametrize("kind", VARIANCES)
def test_data_without_a_range(kind: str) -> None:
    """A model without ``clip`` bounds Gaussian data of any size: L_T and every L_{t−1} exactly."""
    data = Gaussian(np.array([0.5, -2.0, 0.0, 3.0]), np.array([4.0, 1.0, 0.25, 0.01]))
    chain = CHAINS["T=10"]
    standard, noise = sigma_points(4)
    x0 = torch.from_numpy(data.mean + data.var**0.5 * standard).reshape(-1, 1, 2, 2)
    eps = torch.from_numpy(noise).reshape(-1, 1, 2, 2)
    assert x0.abs().max() > 3
    bound = ab.variational_bound(exact_denoiser(data, SHORT, kind), x0, chain, FixedNoise(eps))
    close(bound.prior_nats.mean(), data.prior_kl(abars(chain)[0]))
    close(bound.terms_nats.mean(0), [data.kl_term(*hop) for hop in hops_of(chain, kind)[:-1]])


@pytest.mark.parametrize("value", [1.1, -1.1, float("nan"), float("inf")])
def test_a_model_of_images_refuses_other_ranges(value: float) -> None:
    denoiser = exact_denoiser(DATA, SHORT, "small")
    denoiser.clip = ab.Clip(1.0)
    with pytest.raises(ab.AlphabarError, match=r"\[-1, 1\]"):
        ab.variational_bound(denoiser, torch.full((1, 1, 2, 2), value), CHAINS["T=10"], SeededNoise(0))
