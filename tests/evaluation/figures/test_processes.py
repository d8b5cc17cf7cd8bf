"""Forward and reverse strips, progressive generation, shared latents, quality, nearest neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.base.errors import ConfigError
from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage
from alphabar.evaluation.copies import nearest
from alphabar.evaluation.figures import FIGURES
from alphabar.evaluation.figures.decode import below, spread
from alphabar.evaluation.figures.forward import noised
from alphabar.evaluation.figures.nearest import k_nearest
from alphabar.evaluation.figures.quality import coarse_pixels, estimates_over_time
from alphabar.evaluation.figures.shared_latents import COLUMNS, complete
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.moments import Moments
from alphabar.process import equations as eq
from alphabar.process.chain import Chain
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.driver import trajectory
from alphabar.samplers.generate import generate


def test_the_forward_strip_is_q_sample(subject):
    figure = FIGURES["forward"](subject)
    data = figure.arrays
    abar = subject.chain.schedule.alpha_bar.numpy()
    x0 = data["images"] / 127.5 - 1
    assert data["times"][0] == 0 and data["times"][-1] == subject.T and len(data["times"]) == 9
    for k, t in enumerate(data["times"]):
        expected = math.sqrt(abar[t]) * x0 + math.sqrt(1 - abar[t]) * data["noise"]
        assert np.abs(data["x_t"][:, k] - expected).max() < 1e-5
        table = eq.q_sample(torch.tensor(x0), torch.tensor(data["noise"]).double(), float(abar[t]))
        assert np.abs(data["x_t"][:, k] - table.numpy()).max() < 1e-5
        assert figure.tables[""].rows[k][1] == pytest.approx(abar[t])
    assert np.array_equal(to_uint8(torch.tensor(data["x_t"][:, 0])), data["images"]), "t = 0 is the image"
    assert abs(data["noise"].mean()) < 0.2 and abs(data["noise"].std() - 1) < 0.2


def test_noise_of_an_image_does_not_depend_on_its_neighbours(subject):
    pixels = subject.held_out.gather(np.arange(4)).x
    x, _ = noised(pixels, subject.chain.schedule, [3], 7)
    alone, _ = noised(pixels[:1], subject.chain.schedule, [3], 7)
    assert torch.equal(x[:1], alone)
    assert not torch.equal(x[0], noised(pixels[:1], subject.chain.schedule, [3], 8)[0][0])


def test_the_reverse_strip_ends_with_the_samples_of_these_seeds(subject):
    data = FIGURES["reverse"](subject).arrays
    seeds = data["seeds"].tolist()
    samples = generate(subject.denoiser, subject.sampler, subject.chain, seeds)
    assert seeds[0] == subject.seed and data["times"][0] == subject.T and data["times"][-1] == 0
    assert (to_uint8(torch.tensor(data["x_t"][:, -1])).int() - samples.int()).abs().max() <= 1
    assert np.array_equal(data["x_t"][:, 0], PerImage(seeds).randn(subject.denoiser.shape).numpy())


def test_progressive_estimates_are_the_networks(subject):
    data = FIGURES["progressive"](subject).arrays
    seeds = data["seeds"].tolist()
    x = PerImage(seeds).randn(subject.denoiser.shape)
    first = subject.denoiser(x, next(iter(subject.chain))).x0
    assert np.abs(data["x0_hat"][:, 0] - first.numpy()).max() < 1e-5
    assert data["times"][0] == subject.T and data["times"][-1] == 1
    # the last hop of ancestral sampling returns the estimate itself
    assert (to_uint8(torch.tensor(data["x0_hat"][:, -1])).int() - torch.tensor(data["samples"]).int()).abs().max() <= 1


def test_samples_share_exactly_their_latent(subject):
    latent = torch.randn(subject.denoiser.shape, generator=torch.Generator().manual_seed(1))
    seen = []
    handle = subject.denoiser.register_forward_pre_hook(lambda module, args: seen.append((args[0].clone(), args[1].t)))
    images = complete(subject.denoiser, subject.sampler, subject.chain, latent, 10, 5, seed=3)
    handle.remove()
    assert torch.equal(seen[0][0], latent.expand(5, *latent.shape))
    assert [t for _, t in seen] == list(range(10, 0, -1))
    assert len({image.numpy().tobytes() for image in images}) == 5, "they differ in later noise"
    assert not torch.equal(seen[1][0][0], seen[1][0][1])


def test_shared_latents_are_those_of_one_trajectory(subject):
    data = FIGURES["shared_latents"](subject).arrays
    times = data["times"].tolist()
    assert times == [24, 18, 12, 6, 3] and data["images"].shape == (5, COLUMNS, 1, 8, 8)
    rng = PerImage([subject.seed])
    x_T = rng.randn(subject.denoiser.shape)
    x = {frame.t: frame.x[0] for frame in trajectory(subject.denoiser, Ancestral(), x_T, subject.chain, rng)}
    x[subject.T] = x_T[0]
    for t, latent in zip(times, data["x_t"], strict=True):
        assert np.array_equal(latent, x[t].numpy()), t
    spread_of = [torch.tensor(row).float().std(0).mean() for row in data["images"]]
    assert spread_of[0] > spread_of[-1], "early latents leave more open"


def test_chains_below_a_time(subject):
    chain = Chain.spaced(subject.chain.schedule, 4)
    assert chain.times == (24, 16, 9, 1, 0)
    assert below(chain, 24).times == chain.times
    assert below(chain, 16).times == (16, 9, 1, 0)
    assert below(chain, 12).times == (12, 9, 1, 0)
    assert below(chain, 1).times == (1, 0)
    assert below(chain, 12).var_floor == chain.var_floor
    for t in (0, 25, -1):
        with pytest.raises(ConfigError, match=r"1 … 24"):
            below(chain, t)


def test_places_are_spread_with_both_ends():
    assert spread(range(1001), 5) == [0, 250, 500, 750, 1000]
    assert spread([7, 3, 0], 9) == [0, 1, 2] and spread([7], 3) == [0]


def test_quality_is_the_distance_of_the_estimates(subject):
    data = FIGURES["quality"](subject).arrays
    train = subject.train.gather(np.arange(24)).x
    reference = Moments.of(coarse_pixels(train[6:]).values)
    samples = generate(subject.denoiser, subject.sampler, subject.chain, subject.seeds(6), batch=4)
    assert np.array_equal(data["estimates"][-1], samples.numpy()) and data["times"][-1] == 0
    assert data["frechet"][-1] == pytest.approx(frechet_distance(Moments.of(coarse_pixels(samples).values), reference))
    floor = frechet_distance(Moments.of(coarse_pixels(train[:6]).values), reference)
    assert data["frechet_of_real_images"] == pytest.approx(floor)
    assert (data["frechet"] > floor).all(), "a network that learnt nothing is worse than real images"


def test_quality_takes_any_features(subject):
    def halves(images):
        return coarse_pixels(images // 2)

    figure = FIGURES["quality"](subject, features=halves, space="halves")
    assert "halves" in figure.caption
    assert figure.arrays["frechet"][0] != FIGURES["quality"](subject).arrays["frechet"][0]


def test_quality_of_few_training_images_has_no_floor(make_subject):
    subject = make_subject(T=4)
    few = make_subject(T=4, train=subject.train.subset(np.arange(8)))
    figure = FIGURES["quality"](few)
    assert np.isnan(figure.arrays["frechet_of_real_images"]) and "8 training images" in figure.caption
    assert figure.png()


def test_estimates_do_not_depend_on_the_batch(make_subject):
    one, other = make_subject(batch=2), make_subject(batch=6)
    times, a = estimates_over_time(one, 4)
    assert (a.int() - estimates_over_time(other, 4)[1].int()).abs().max() <= 1
    assert times[0] == 24 and times[-1] == 0 and a.shape == (4, 6, 1, 8, 8)


def test_coarse_pixels_are_means_of_squares():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = (images.double() / 127.5 - 1).unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5)).flatten(1)
    assert torch.allclose(coarse_pixels(images).values.double(), expected, atol=1e-6)
    small = images[:, :, :5, :3]
    assert torch.allclose(coarse_pixels(small).values, (small.float() / 127.5 - 1).flatten(1))


def test_k_nearest_by_brute_force(subject):
    others = subject.train
    images = subject.held_out.gather(np.arange(5)).x
    index, rmse = k_nearest(images, others, 4, chunk=7)
    a, b = images.flatten(1).numpy().astype(float), others.pixels.reshape(24, -1).astype(float)
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).mean(2))
    assert np.array_equal(index.numpy(), np.argsort(distances, axis=1, kind="stable")[:, :4])
    assert np.allclose(rmse.numpy(), np.sort(distances, axis=1)[:, :4])
    found = nearest(images, torch.tensor(np.array(others.pixels)))
    assert torch.equal(index[:, 0], found.index) and torch.allclose(rmse[:, 0], found.rmse)


def test_k_nearest_of_copies_is_zero_and_the_first_wins(subject):
    twice = subject.train.subset(np.array([3, 5, 3, 7]))
    index, rmse = k_nearest(subject.train.gather(np.array([3])).x, twice, 3, chunk=2)
    assert index[0, :2].tolist() == [0, 2] and rmse[0, :2].tolist() == [0, 0] and rmse[0, 2] > 0
    for k in (0, 5):
        with pytest.raises(ConfigError, match="1 … 4"):
            k_nearest(subject.train.gather(np.array([3])).x, twice, k)


def test_the_nearest_figure_shows_the_neighbours(subject, tmp_path):
    figure = FIGURES["nearest"](subject)
    data = figure.arrays
    assert np.array_equal(data["neighbours"], subject.train.pixels[data["index"]])
    assert (np.diff(data["rmse"], axis=1) >= 0).all()
    figure.write(tmp_path)
    with Image.open(tmp_path / "nearest-grid.png") as grid:
        assert np.asarray(grid)[4, 4] == data["samples"][0, 0, 0, 0]
