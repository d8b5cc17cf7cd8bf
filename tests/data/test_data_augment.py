"""Augmentations: what they may do to an image, and that they depend on (seed, position) alone."""

from __future__ import annotations

import numpy as np
import pytest

from alphabar.base.errors import ConfigError
from alphabar.data import Images, Loader
from alphabar.data.augment import AUGMENTATIONS
from alphabar.data.order import dice
from data.pictures import rgb

NAMES = list(AUGMENTATIONS)


def changed(name: str, image: np.ndarray, n: int = 64, seed: int = 0, start: int = 0) -> np.ndarray:
    batch = np.repeat(image[None], n, 0)
    AUGMENTATIONS[name](batch, np.arange(start, start + n), seed)
    return batch


def allowed(name: str, image: np.ndarray) -> list[np.ndarray]:
    if name == "flip":
        return [image, image[:, :, ::-1]]
    if name == "flip_vertical":
        return [image, image[:, ::-1]]
    if name == "rotate":
        return [np.rot90(image, k, (1, 2)) for k in range(4)]
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    return [padded[:, 2 - y : 34 - y, 2 - x : 34 - x] for y in range(-2, 3) for x in range(-2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_every_outcome_is_allowed_and_every_allowed_one_comes_out(name: str) -> None:
    image = rgb(0, 32, 32).transpose(2, 0, 1)
    outcomes = {one.tobytes() for one in changed(name, image, 400)}
    assert outcomes == {np.ascontiguousarray(one).tobytes() for one in allowed(name, image)}


@pytest.mark.parametrize("name", NAMES)
def test_they_depend_on_seed_and_position_alone(name: str) -> None:
    image = rgb(0, 32, 32).transpose(2, 0, 1)
    whole = changed(name, image)
    assert (changed(name, image, 32, start=32) == whole[32:]).all()
    assert (changed(name, image, seed=1) != whole).any()


def test_rotation_needs_squares() -> None:
    with pytest.raises(ConfigError, match="rotate needs square images, these are 8x6"):
        changed("rotate", rgb(0, 8, 6).transpose(2, 0, 1))


def test_dice_are_fair() -> None:
    for sides in (1, 3, 5, 33):
        counts = np.bincount(dice(np.arange(33_000), sides, 0), minlength=sides)
        assert len(counts) == sides
        assert np.abs(counts / (33_000 / sides) - 1).max() < 0.2


@pytest.mark.parametrize("names", [["rotate", "shift"], ["flip", "flip_vertical"]])
def test_the_loader_applies_them_per_position(names: list[str]) -> None:
    pixels = np.stack([rgb(n, 16, 16).transpose(2, 0, 1) for n in range(5)])
    images = Images(pixels, None, (), "five", "five")
    batches = [Loader(images, batch, 3, augment=names) for batch in (4, 2)]
    small = np.concatenate([batches[1].batch(step).x.numpy() for step in range(6)])
    large = np.concatenate([batches[0].batch(step).x.numpy() for step in range(3)])
    assert (small == large).all()
    assert (large != np.concatenate([Loader(images, 4, 3).batch(step).x.numpy() for step in range(3)])).any()
