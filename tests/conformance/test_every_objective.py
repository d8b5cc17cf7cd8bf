"""What every objective, prediction and variance in the registries must satisfy together."""

from __future__ import annotations

import pytest
import torch

import alphabar as ab

PAPER = ab.schedules.Linear(T=1000).build()


@pytest.mark.parametrize("variance", ab.VARIANCES)
@pytest.mark.parametrize("prediction", ab.PREDICTIONS)
@pytest.mark.parametrize("objective", ab.OBJECTIVES)
def test_losses_are_per_image_and_teach(objective: str, prediction: str, variance: str) -> None:
    """[B], finite, with finite gradients, at the ends and the middle of the chain; never negative for Simple."""
    kind = ab.VARIANCES[variance]()
    weight = torch.full((1,), 0.5, requires_grad=True)

    def net(x_t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.cat([weight * x_t, 0.1 * weight * x_t.detach().tanh()][: kind.channels], 1)

    denoiser = ab.Denoiser(net, PAPER, shape=(3, 4, 4), prediction=ab.PREDICTIONS[prediction](), variance=kind)
    chain = ab.Chain.full(PAPER)
    tr = chain.at(torch.tensor([1, 2, 500, 1000]))
    x0 = ab.to_model_range(ab.stream(0).randint(0, 256, [4, 3, 4, 4]).to(torch.uint8))
    eps = ab.stream(1).randn_like(x0)
    est = denoiser(ab.equations.q_sample(x0, eps, tr.abar_t), tr)
    losses = ab.OBJECTIVES[objective]()(est, x0, eps, tr)
    assert losses.shape == (4,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert torch.isfinite(weight.grad).all() and (weight.grad != 0).all()


@pytest.mark.parametrize("prediction", ab.PREDICTIONS)
@pytest.mark.parametrize("objective", ["simple", "min_snr", "p2"])
def test_images_may_be_on_another_device_than_the_times(objective: str, prediction: str) -> None:
    """In training times and coefficients stay on the CPU while images are on a GPU, whose rules "meta" shares."""
    denoiser = ab.Denoiser(lambda x_t, index: x_t, PAPER, shape=(3, 4, 4), prediction=ab.PREDICTIONS[prediction]())
    tr = ab.Chain.full(PAPER).at(torch.tensor([2, 500, 1000]))
    x0 = eps = torch.empty(3, 3, 4, 4, device="meta")
    losses = ab.OBJECTIVES[objective]()(denoiser(ab.equations.q_sample(x0, eps, tr.abar_t), tr), x0, eps, tr)
    assert losses.shape == (3,) and losses.device.type == "meta"


@pytest.mark.parametrize("objective", ab.OBJECTIVES)
def test_objectives_say_whether_they_teach_a_variance(objective: str) -> None:
    """The gradient reaches the half of the output that is the variance, or it does not."""
    out = torch.zeros(3, 6, 4, 4, requires_grad=True)
    denoiser = ab.Denoiser(lambda x_t, index: out, PAPER, shape=(3, 4, 4), variance=ab.Learned())
    tr = ab.Chain.full(PAPER).at(torch.tensor([2, 500, 1000]))
    x0 = ab.to_model_range(ab.stream(0).randint(0, 256, [3, 3, 4, 4]).to(torch.uint8))
    eps = ab.stream(1).randn_like(x0)
    kind = ab.OBJECTIVES[objective]
    kind()(denoiser(ab.equations.q_sample(x0, eps, tr.abar_t), tr), x0, eps, tr).sum().backward()
    assert bool(out.grad[:, 3:].any()) is kind.teaches_variance
