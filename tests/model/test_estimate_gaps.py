"""Conversions between predictions as one call, the unclipped mean, and the stored table of sinusoids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import alphabar as ab
from alphabar.model.nn.embed import SinusoidalPositionEmbeddings
from alphabar.model.prediction import convert
from oracles import sinusoid as oracle
from oracles.gaussian import condition

SCHEDULE = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
X0 = torch.tensor([[[[0.3, -0.9], [1.0, 0.0]]]], dtype=torch.float64)
EPS = torch.tensor([[[[1.3, -0.4], [0.1, 2.0]]]], dtype=torch.float64)


def truth(x0: Tensor, hop: ab.Transition) -> dict[str, Tensor]:
    """What a perfect network says in each parametrisation, and x_t."""
    signal, noise = hop.abar_t**0.5, (1 - hop.abar_t) ** 0.5
    on_x0, on_x_t, _ = condition(hop.abar_t, hop.abar_s)
    x_t = signal * x0 + noise * EPS
    mean = on_x0 * x0 + on_x_t * x_t
    return {"x_t": x_t, "x0": x0, "eps": EPS, "v": signal * EPS - noise * x0, "score": -EPS / noise, "mean": mean}


@pytest.mark.parametrize("wanted", ab.PREDICTIONS)
@pytest.mark.parametrize("given", ab.PREDICTIONS)
def test_convert(given: str, wanted: str) -> None:
    """From each to each, in this direction."""
    for hop in ab.Chain(SCHEDULE, times=(10, 6, 5, 1, 0)):
        said = truth(X0, hop)
        actual = convert(said[given], said["x_t"], hop, ab.PREDICTIONS[given](), ab.PREDICTIONS[wanted]())
        torch.testing.assert_close(actual, said[wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ab.PREDICTIONS)
def test_mean_raw_is_not_clipped(kind: str) -> None:
    """The mean of the wild x̂_0, whatever the clip."""
    hop = next(iter(ab.Chain(SCHEDULE, times=(6, 3, 0))))
    said, step = truth(4.0 * X0, hop), truth(4.0 * X0, next(iter(ab.Chain(SCHEDULE, times=(6, 5, 0)))))
    denoiser = ab.Denoiser(
        lambda x_t, index: step[kind],  # a network only knows t: its mean is that of the hop t → t − 1
        SCHEDULE,
        prediction=ab.PREDICTIONS[kind](),
        clip=ab.Clip(1.0),
        shape=(1, 2, 2),
    )
    est = denoiser(said["x_t"], hop)
    torch.testing.assert_close(est.mean_raw, said["mean"], rtol=1e-9, atol=1e-9)
    assert (est.mean - est.mean_raw).abs().max().item() > 0.1


@pytest.mark.parametrize("kind", ab.PREDICTIONS)
def test_an_estimate_has_every_form(kind: str) -> None:
    """From what the network says, in whichever way."""
    hop = next(iter(ab.Chain(SCHEDULE, times=(6, 5, 0))))
    said = truth(X0, hop)
    denoiser = ab.Denoiser(lambda x_t, index: said[kind], SCHEDULE, prediction=ab.PREDICTIONS[kind](), shape=(1, 2, 2))
    est = denoiser(said["x_t"], hop)
    for form in ("x0", "eps", "v", "score", "mean"):
        torch.testing.assert_close(getattr(est, form), said[form], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [20, None], ids=["stored", "computed"])
def test_the_first_layer_is_the_sinusoids_of_the_index_itself(rows: int | None) -> None:
    """Row 0 is that of 0; stored or computed, the numbers are the same."""
    layer = SinusoidalPositionEmbeddings(rows, 8, 16).double().time_blocks[0]
    index = torch.tensor([0, 1, 7, 19])
    np.testing.assert_allclose(layer(index).numpy(), oracle.sinusoid(index.numpy(), 8), atol=2e-6)
