"""Training losses against closed forms: unreduced, in the right unit, with the gradients they should have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from alphabar.process import equations as eq
from oracles import decoder
from oracles.gaussian import Gaussian, hop_variances, sigma_points
from oracles.nets import ExactNet

DATA = Gaussian(np.array([0.3, -0.5, 0.0, 1.0]), np.array([4.0, 1.0, 0.25, 0.01]))
SHORT = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
PAPER = ab.schedules.Linear(T=1000).build()
ABAR = SHORT.alpha_bar.tolist()
FULL = ab.Chain.full(SHORT)
PREDICTIONS = {"eps": ab.Eps, "x0": ab.X0, "v": ab.V, "score": ab.Score, "mean": ab.Mean}
VARIANCES = {"small": ab.FixedSmall, "large": ab.FixedLarge}


def sigma_batch() -> tuple[Tensor, Tensor]:
    """(x0, ε) as images [16, 1, 2, 2] whose batch mean is the expectation over data and noise."""
    standard, noise = sigma_points(4)
    x0 = DATA.mean + DATA.var**0.5 * standard
    return torch.from_numpy(x0).reshape(-1, 1, 2, 2), torch.from_numpy(noise).reshape(-1, 1, 2, 2)


def losses(
    objective: object, denoiser: ab.Denoiser, t: int | list[int], chain: ab.Chain = FULL, on_grid: bool = False
) -> Tensor:
    """One value per image, as the trainer calls it."""
    x0, eps = sigma_batch()
    if on_grid:
        x0 = torch.round((x0.clamp(-1, 1) + 1) * 127.5) / 127.5 - 1
    tr = chain.at(torch.tensor([t] * len(x0) if isinstance(t, int) else t))
    loss = objective(denoiser(eq.q_sample(x0, eps, tr.abar_t), tr), x0, eps, tr)
    assert loss.shape == (len(x0),)
    return loss


def exact_denoiser(
    target: str = "eps", kind: str = "small", schedule: ab.Schedule = SHORT, clip: ab.Clip | None = None
) -> ab.Denoiser:
    """The optimal network in any parametrisation."""
    net = ExactNet(DATA, schedule.alpha_bar, target)
    prediction, variance = PREDICTIONS[target](), VARIANCES[kind]()
    return ab.Denoiser(net, schedule, prediction=prediction, variance=variance, clip=clip, shape=(1, 2, 2))


@pytest.mark.parametrize("t", [1, 2, 5, 10])
def test_simple_is_the_optimal_loss(t: int) -> None:
    """E mean (ε − ε*)² = Σ ᾱλ/c over dimensions, divided by D: a mean over pixels, nothing over images."""
    loss = losses(ab.objectives.Simple(), exact_denoiser(), t)
    assert loss.mean().item() == pytest.approx(DATA.simple_loss(ABAR[t]) / 4, rel=1e-9)


def test_simple_per_image() -> None:
    """Every image with its own t."""
    t = [1 + i % 10 for i in range(16)]
    loss = losses(ab.objectives.Simple(), exact_denoiser(), t)
    x0, eps = (part.reshape(16, 4).numpy() for part in sigma_batch())
    for i, row in enumerate(t):
        slope, offset = DATA.eps_coefficients(ABAR[row])
        eps_hat = slope * (ABAR[row] ** 0.5 * x0[i] + (1 - ABAR[row]) ** 0.5 * eps[i]) + offset
        assert loss[i].item() == pytest.approx(((eps[i] - eps_hat) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize("target", sorted(PREDICTIONS))
def test_simple_is_the_error_of_what_is_predicted(target: str) -> None:
    """For x0, v, score, μ̃: the squared error of that quantity, each a known multiple of the squared x0 error."""
    t = 4
    abar_t, abar_s = ABAR[t], ABAR[t - 1]
    on_x0 = abar_s**0.5 * (1 - abar_t / abar_s) / (1 - abar_t)
    per_x0 = {
        "x0": 1.0,
        "eps": abar_t / (1 - abar_t),
        "v": 1 / (1 - abar_t),
        "score": abar_t / (1 - abar_t) ** 2,
        "mean": on_x0**2,
    }[target]
    loss = losses(ab.objectives.Simple(), exact_denoiser(target), t)
    assert loss.mean().item() == pytest.approx(per_x0 * DATA.mmse(abar_t) / 4, rel=1e-9)


@pytest.mark.parametrize("target", sorted(PREDICTIONS))
@pytest.mark.parametrize("t", [1, 4, 10])
def test_weighted_errors_do_not_depend_on_what_is_predicted(t: int, target: str) -> None:
    """The papers' weights of the x0 error: min(SNR, γ), and SNR/(k + SNR)^γ."""
    snr = ABAR[t] / (1 - ABAR[t])
    weights = {
        ab.objectives.MinSNR(gamma=1.5): min(snr, 1.5),
        ab.objectives.P2(k=0.7, gamma=0.5): snr / (0.7 + snr) ** 0.5,
    }
    for objective, weight in weights.items():
        loss = losses(objective, exact_denoiser(target), t)
        assert loss.mean().item() == pytest.approx(weight * DATA.mmse(ABAR[t]) / 4, rel=1e-9)


@pytest.mark.parametrize("objective", [ab.objectives.MinSNR(gamma=1e9), ab.objectives.P2(gamma=0)])
def test_weighted_errors_end_in_l_simple(objective: object) -> None:
    """A γ beyond every SNR, or P2's γ = 0, changes nothing where ε is predicted."""
    times = [1 + i % 10 for i in range(16)]
    simple = losses(ab.objectives.Simple(), exact_denoiser(), times)
    torch.testing.assert_close(losses(objective, exact_denoiser(), times), simple, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", [ab.objectives.MinSNR(), ab.objectives.P2()])
def test_weighted_errors_where_nothing_is_left_of_the_image(objective: object) -> None:
    """ᾱ_T = 0 with v: the weight of x̂_0 is 0 there, and so are loss and gradient."""
    schedule = ab.Schedule.from_alpha_bar(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    denoiser = ab.Denoiser(ExactNet(DATA, schedule.alpha_bar, "v"), schedule, prediction=ab.V(), shape=(1, 2, 2))
    assert (losses(objective, denoiser, 2, ab.Chain.full(schedule)) == 0).all()


@pytest.mark.parametrize("target", sorted(PREDICTIONS))
@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("t", [2, 5, 10])
def test_bound_is_the_kl(t: int, kind: str, target: str) -> None:
    """Nats per image, summed over pixels, whatever is predicted."""
    sigma2 = hop_variances(ABAR[::-1], kind)[10 - t]
    loss = losses(ab.objectives.Bound(), exact_denoiser(target, kind), t)
    assert loss.mean().item() == pytest.approx(DATA.kl_term(ABAR[t], ABAR[t - 1], sigma2), rel=1e-8)


@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("t", [2, 3, 500, 1000])
def test_bound_on_the_papers_schedule(t: int, kind: str) -> None:
    """Where the variances are 1e-5 and a floor under log σ² would show."""
    abar = PAPER.alpha_bar.tolist()
    sigma2 = hop_variances(abar[::-1], kind)[1000 - t]
    loss = losses(ab.objectives.Bound(), exact_denoiser(kind=kind, schedule=PAPER), t, ab.Chain.full(PAPER))
    assert loss.mean().item() == pytest.approx(DATA.kl_term(abar[t], abar[t - 1], sigma2), rel=1e-8)


@pytest.mark.parametrize("kind", VARIANCES)
def test_bound_at_the_data_is_the_decoder(kind: str) -> None:
    """t = 1: −ln p(x0 | x_1) with the chain's floor, nats per image."""
    loss = losses(ab.objectives.Bound(), exact_denoiser(kind=kind), 1, on_grid=True)
    x0, eps = (part.reshape(16, 4).numpy() for part in sigma_batch())
    x0 = np.round((x0.clip(-1, 1) + 1) * 127.5) / 127.5 - 1
    slope, offset = DATA.x0_coefficients(ABAR[1])
    mean = slope * (ABAR[1] ** 0.5 * x0 + (1 - ABAR[1]) ** 0.5 * eps) + offset
    floor = hop_variances(ABAR[::-1], kind)[-1]
    expected = -decoder.log_prob(x0, mean, np.log(floor)).sum(1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-8)


def test_bound_mixes_both_kinds_of_term_in_one_batch() -> None:
    """Rows at t = 1 get the decoder, others the KL."""
    objective, denoiser = ab.objectives.Bound(), exact_denoiser()
    mixed = losses(objective, denoiser, [1 if i % 2 else 6 for i in range(16)], on_grid=True)
    first, sixth = (losses(objective, denoiser, t, on_grid=True) for t in (1, 6))
    expected = torch.where(torch.arange(16) % 2 == 1, first, sixth)
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("t", [2, 5, 10])
def test_weighted_simple_is_the_kl(t: int, kind: str) -> None:
    """Eq. 12: D · weight · L_simple, plus the variance mismatch, is the KL, image by image."""
    tr = FULL.at(torch.tensor([t]))
    sigma2 = hop_variances(ABAR[::-1], kind)[10 - t]
    tilde = hop_variances(ABAR[::-1], "small")[10 - t]
    weight = float(eq.bound_weight(tr.abar_t.item(), tr.abar_s.item(), np.log(sigma2)))
    constant = 4 / 2 * (tilde / sigma2 - 1 - np.log(tilde / sigma2))
    simple = losses(ab.objectives.Simple(), exact_denoiser(kind=kind), t)
    bound = losses(ab.objectives.Bound(), exact_denoiser(kind=kind), t)
    torch.testing.assert_close(4 * weight * simple + constant, bound, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", [ab.objectives.Simple(), ab.objectives.Bound()], ids=str)
def test_training_does_not_clip(objective: object) -> None:
    """Amplitudes beyond [−1, 1] and a clipping denoiser: the loss sees the raw estimate."""
    for t in (3, 10):
        clipped = losses(objective, exact_denoiser(clip=ab.Clip(1.0)), t)
        torch.testing.assert_close(clipped, losses(objective, exact_denoiser(), t), rtol=1e-12, atol=1e-12)


class Learner(torch.nn.Module):
    """Predicts ε = a·x_t and the variance channel b, two numbers to differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, x_t: Tensor, index: Tensor) -> Tensor:
        """[B, 2C, H, W]."""
        return torch.cat([self.a * x_t, self.b.expand_as(x_t)], dim=1)


def learner_losses(objective: object, t: int) -> tuple[Tensor, float, float]:
    """(losses, ∂a, ∂b) with a learned variance range."""
    net = Learner()
    denoiser = ab.Denoiser(net, SHORT, prediction=ab.Eps(), variance=ab.LearnedRange(), clip=None, shape=(1, 2, 2))
    loss = losses(objective, denoiser, t, on_grid=True)
    grad_a, grad_b = torch.autograd.grad(loss.sum(), (net.a, net.b), allow_unused=True)
    return loss.detach(), *(0.0 if g is None else g.item() for g in (grad_a, grad_b))


@pytest.mark.parametrize("weight", [0.001, 0.5])
@pytest.mark.parametrize("t", [1, 4, 10])
def test_hybrid(t: int, weight: float) -> None:
    """L_simple + λ·T·L_{t−1} in bits/dim (Nichol & Dhariwal, Eq. 16, as released); only the variance feels it."""
    simple, simple_a, simple_b = learner_losses(ab.objectives.Simple(), t)
    bound, bound_a, bound_b = learner_losses(ab.objectives.Bound(), t)
    hybrid, hybrid_a, hybrid_b = learner_losses(ab.objectives.Hybrid(weight=weight), t)
    scale = weight * 10 / (4 * np.log(2))
    torch.testing.assert_close(hybrid, simple + scale * bound, rtol=1e-10, atol=1e-10)
    assert hybrid_a == pytest.approx(simple_a, rel=1e-10)
    assert hybrid_b == pytest.approx(scale * bound_b, rel=1e-10)
    assert simple_b == 0.0
    assert bound_a != 0.0 and bound_b != 0.0


def test_gradient_of_the_bound() -> None:
    """∂/∂b by finite differences of the loss itself: the learned variance is really differentiated."""
    loss, _, grad_b = learner_losses(ab.objectives.Bound(), 4)
    step = 1e-6
    shifted = []
    for sign in (1, -1):
        net = Learner()
        net.b.data += sign * step
        denoiser = ab.Denoiser(net, SHORT, prediction=ab.Eps(), variance=ab.LearnedRange(), clip=None, shape=(1, 2, 2))
        shifted.append(losses(ab.objectives.Bound(), denoiser, 4, on_grid=True).sum().item())
    assert grad_b == pytest.approx((shifted[0] - shifted[1]) / (2 * step), rel=1e-6)
    assert torch.isfinite(loss).all()
