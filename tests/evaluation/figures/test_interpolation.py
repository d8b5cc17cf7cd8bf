"""Interpolation: its ends are the decoded images, t = 0 mixes pixels, and nothing but λ changes along a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.base.errors import ConfigError
from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage, derive
from alphabar.evaluation.figures import FIGURES, Pair
from alphabar.evaluation.figures.decode import below, decode, encode
from alphabar.evaluation.figures.interpolation import (
    LAMBDAS,
    default_pairs,
    interpolate,
    labels_between,
    mix_pixels,
    pair_of,
    usual_time,
)
from alphabar.process.chain import Chain
from alphabar.process.schedules import Linear
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.ddim import DDIM


@pytest.fixture
def pair(subject):
    return subject.held_out.gather(np.arange(2)).x


def close(a, b) -> bool:
    """Equal up to a level: a convolution may sum a batch in another order than a single image."""
    return int((a.int() - b.int()).abs().max()) <= 1


@pytest.mark.parametrize("t", [1, 7, 24])
@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(eta=1.0)])
def test_the_ends_are_the_two_images_decoded_alone(subject, pair, t, sampler):
    a, b = pair
    images = interpolate(subject.denoiser, sampler, subject.chain, a, b, t, LAMBDAS, seed=2)
    assert images.shape == (11, 1, 8, 8) and images.dtype == torch.uint8
    for end, image, which in ((images[0], a, "a"), (images[-1], b, "b")):
        x_t = encode(subject.chain, image, t, derive(2, which))
        alone = decode(subject.denoiser, sampler, subject.chain, x_t[None], t, PerImage([derive(2, "decode", t)]))
        assert close(end, to_uint8(alone)[0])
    same = interpolate(subject.denoiser, sampler, subject.chain, a, b, t, [0.0], seed=2)
    assert close(same[0], images[0]), "an end does not depend on the λ beside it"
    other = interpolate(subject.denoiser, sampler, subject.chain, a, a, t, [0.0], seed=2)
    assert close(other[0], images[0]), "λ = 0 does not depend on the other image"


def test_decoding_is_the_reverse_process_from_t(subject, pair):
    """The driver's loop written out, on a time that is not on the chain."""
    chain = Chain.spaced(subject.chain.schedule, 5)
    t = 10
    assert t not in chain.times
    x = x_t = encode(chain, pair[0], t, 4)[None]
    rng, again = PerImage([1]), PerImage([1])
    for tr in below(chain, t):
        est = subject.denoiser(x, tr)
        noise = again.randn_like(x) * np.exp(float(est.log_var) / 2) if tr.s else 0
        x = est.mean + noise
    assert torch.allclose(decode(subject.denoiser, Ancestral(), chain, x_t, t, rng), x, atol=1e-6)


def test_at_zero_pixels_are_mixed(subject, pair):
    a, b = pair
    images = interpolate(subject.denoiser, subject.sampler, subject.chain, a, b, 0, LAMBDAS, seed=2)
    for share, image in zip(LAMBDAS, images, strict=True):
        expected = np.round((1 - share) * a.numpy().astype(float) + share * b.numpy().astype(float))
        assert np.array_equal(image.numpy(), expected.astype(np.uint8))
    assert torch.equal(images[0], a) and torch.equal(images[-1], b)
    assert torch.equal(mix_pixels(a, a, [0.3, 0.7]), torch.stack([a, a]))


def test_only_the_share_changes_along_a_row(subject, pair):
    """Every λ starts from (1 − λ) x_t + λ x_t′ and meets the same noise on the way."""
    a, b = pair
    seen = []
    handle = subject.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    interpolate(subject.denoiser, subject.sampler, subject.chain, a, b, 9, LAMBDAS, seed=2)
    handle.remove()
    x_a, x_b = encode(subject.chain, a, 9, derive(2, "a")), encode(subject.chain, b, 9, derive(2, "b"))
    for share, x in zip(LAMBDAS, seen[0], strict=True):
        assert torch.allclose(x, (1 - share) * x_a + share * x_b, atol=1e-6)
    last = [encode(subject.chain, a, 24, derive(2, which)) for which in "ab"]
    assert not torch.allclose(*last), "each image has noise of its own"
    one = interpolate(subject.denoiser, subject.sampler, subject.chain, a, a, 9, [0.0, 0.0, 1.0], seed=2)
    assert torch.equal(one[0], one[1]), "the same noise for equal shares"


def test_noise_is_that_of_the_seed(subject, pair):
    a, b = pair
    first = interpolate(subject.denoiser, subject.sampler, subject.chain, a, b, 9, [0.5], seed=2)
    assert torch.equal(first, interpolate(subject.denoiser, subject.sampler, subject.chain, a, b, 9, [0.5], seed=2))
    assert not torch.equal(first, interpolate(subject.denoiser, subject.sampler, subject.chain, a, b, 9, [0.5], seed=3))


@pytest.mark.parametrize("t", [-1, 25])
def test_times_that_do_not_exist(subject, pair, t):
    with pytest.raises(ConfigError, match=r"0 … 24"):
        interpolate(subject.denoiser, subject.sampler, subject.chain, *pair, t, [0.5], seed=0)
    with pytest.raises(ConfigError, match="one shape"):
        interpolate(subject.denoiser, subject.sampler, subject.chain, pair[0], pair[1][:, :4], 3, [0.5], seed=0)


def test_the_figure_holds_what_interpolate_gives(subject, pair):
    data = FIGURES["interpolation"](subject, t=7).arrays
    assert data["t"] == 7 and data["decoded"].shape == (3, 11, 1, 8, 8), "three pairs of six held-out images"
    assert np.array_equal(data["sources"][0], pair.numpy())
    own = interpolate(subject.denoiser, subject.sampler, subject.chain, *pair, 7, LAMBDAS, subject.seed)
    assert np.array_equal(data["decoded"][0], own.numpy())
    assert np.array_equal(data["pixels"][0], mix_pixels(*pair, LAMBDAS).numpy())


def test_one_given_pair_is_drawn_several_times(subject):
    given = pair_of(subject, 4, 1)
    figure = FIGURES["interpolation"](subject, pair=given, t=12)
    assert "Held-out images 4 and 1, 3 draws" in figure.caption
    decoded = figure.arrays["decoded"]
    assert len(decoded) == 3 and not np.array_equal(decoded[0], decoded[1]) and len(figure.arrays["pixels"]) == 1


def test_coarse_to_fine_ends_with_pixel_mixing(subject, pair):
    data = FIGURES["coarse_to_fine"](subject).arrays
    times = data["times"].tolist()
    assert times == [24, 21, 18, 15, 12, 9, 6, 3, 0]
    assert np.array_equal(data["images"][-1], mix_pixels(*pair, LAMBDAS).numpy())
    for t, row in zip(times, data["images"], strict=True):
        own = interpolate(subject.denoiser, subject.sampler, subject.chain, *pair, t, LAMBDAS, subject.seed)
        assert np.array_equal(row, own.numpy())
    changes = np.abs(np.diff(data["images"].astype(int), axis=1)).mean((1, 2, 3, 4))
    assert changes[0] < changes[-1], "at T nothing of the images is left"


def test_given_pair_in_coarse_to_fine(subject):
    a, b = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    figure = FIGURES["coarse_to_fine"](subject, pair=Pair(a, b, "pictures", ("A.png", "B.PNG")))
    assert "Pictures A.png and B.PNG;" in figure.caption
    assert not figure.arrays["images"][-1].any()


def test_pairs_are_of_different_classes(make_subject):
    subject = make_subject(classes=2)
    for one in default_pairs(subject):
        assert one.classes is not None and one.classes[0] != one.classes[1]
    given = Pair(*torch.zeros(2, 1, 8, 8), "pictures", ("a", "b"), (0, 1))
    assert labels_between(subject, given, [0, 0.5, 0.6, 1]).tolist() == [0, 0, 1, 1]


def test_indices(subject):
    for index in (6, -1):
        with pytest.raises(ConfigError, match="6 held-out images, 0 to 5"):
            pair_of(subject, 0, index)


def test_the_usual_time(make_subject):
    """About the paper's t = 500 at 256×256, and where the ratio is 2 at 8×8."""
    subject = make_subject(T=1000)
    abar = Linear(T=1000).build().alpha_bar.numpy()
    ratio = abar[1:] / (1 - abar[1:])
    t = usual_time(subject)
    assert ratio[t - 1] <= 2 < ratio[t - 2]
    assert 450 < 1 + int((ratio <= 16 / 256).argmax()) < 600
