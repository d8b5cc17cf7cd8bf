"""How the terms of the bound become the numbers of a table: units, channels, distortion, errors, whole sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alphabar as ab
from alphabar.data.batch import Images
from alphabar.evaluation import dataset
from alphabar.evaluation.dataset import dataset_bound
from alphabar.evaluation.likelihood import mean_and_error
from alphabar.training.trainer import new_denoiser
from noise import SeededNoise
from tiny import config, images

SCHEDULE = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
CHAIN = ab.Chain(SCHEDULE, times=(10, 7, 4, 1, 0))


def bound_of_a_constant(said: float) -> tuple[torch.Tensor, ab.Bound]:
    """Two colour images, and the bound of a network that always answers the same grey."""
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5))
    x0 = torch.from_numpy(levels / 127.5 - 1)
    denoiser = ab.Denoiser(lambda x_t, index: torch.full_like(x_t, said), SCHEDULE, prediction=ab.X0(), shape=(3, 4, 5))
    return x0, ab.variational_bound(denoiser, x0, CHAIN, SeededNoise(0))


def test_bits_rate_and_distortion_count_every_channel() -> None:
    """60 numbers an image: rate and distortion add up to the bound, each in bits per dimension."""
    _, bound = bound_of_a_constant(0.25)
    unit = 60 * math.log(2)
    rate, distortion = (bound.prior_nats + bound.terms_nats.sum(1)) / unit, bound.decoder_nats / unit
    for actual, expected in [
        (bound.rate, rate),
        (bound.distortion, distortion),
        (bound.bits_per_dim, rate + distortion),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert (rate > 0).all() and (distortion > 0).all()


def test_mse_is_that_of_the_image_per_pixel() -> None:
    """(x_0 − x̂_0)² averaged over pixels and channels, at every hop, the last one included."""
    x0, bound = bound_of_a_constant(0.25)
    expected = ((x0 - 0.25) ** 2).sum((1, 2, 3)) / 60
    torch.testing.assert_close(bound.mse, expected[:, None].expand(2, 4), rtol=1e-12, atol=0)


def test_mean_and_error() -> None:
    """s/√n with n − 1 under s²; of a single value nobody knows the error."""
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0], dtype=torch.float64))
    assert (mean, error) == pytest.approx((4.0, math.sqrt(50 / 4 / 5)), rel=1e-12)
    mean, error = mean_and_error(torch.tensor([3.0]))
    assert mean == 3.0 and math.isnan(error)


def test_a_set_is_judged_image_by_image_whatever_the_batch() -> None:
    """Every image once, with noise of its own."""
    one = images(1)
    same = Images(np.repeat(one.pixels, 5, axis=0), None, (), "same", "same")
    denoiser = new_denoiser(config(), (1, 8, 8)).eval()
    chain = ab.Chain.spaced(denoiser.schedule, 4)
    nats = [ab.Bound.cat(list(dataset_bound(denoiser, same, chain, seed=1, batch=b))).nats for b in (5, 2, 1)]
    assert all(len(values) == 5 for values in nats)
    assert len(nats[0].unique()) == 5
    for values in nats[1:]:
        torch.testing.assert_close(values, nats[0], rtol=1e-4, atol=0)


def test_the_pilot_looks_at_images_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come sorted by class; the first of them are one class."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(dataset, "importance_plan", lambda denoiser, x0, *rest, **labels: seen.append(x0))
    levels = np.repeat(np.array([0, 255], dtype=np.uint8), 50)[:, None, None, None]
    images = Images(np.tile(levels, (1, 1, 8, 8)), None, (), "sorted", "sorted")
    denoiser = new_denoiser(config(), (1, 8, 8)).eval()
    for _ in range(2):
        dataset.dataset_plan(denoiser, images, ab.Chain.full(denoiser.schedule), 8, seed=1)
    first, second = seen
    assert len(first) == 16 and 4 <= int((first[:, 0, 0, 0] > 0).sum()) <= 12
    assert torch.equal(first, second)
