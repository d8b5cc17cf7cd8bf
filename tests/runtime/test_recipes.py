"""Settings chosen from the images: legal for any shape and number, and overruled by what the user says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import alphabar as ab
from alphabar.base.errors import ConfigError
from alphabar.model.nn import CIFAR10, LSUN256, UNet
from alphabar.runtime.config import dump, from_tables, load_config, merge, override, preset, presets
from alphabar.runtime.recipes import recipe

SHAPES = [
    (1, 8, 8),
    (1, 28, 28),
    (3, 32, 32),
    (3, 7, 9),
    (5, 16, 24),
    (3, 64, 64),
    (3, 1, 1),
    (3, 256, 256),
    (1, 25, 25),
]


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_fits_the_images(shape: tuple[int, int, int], light: bool) -> None:
    config = from_tables(recipe(shape, 1000, light=light))
    with torch.device("meta"):
        net = UNet(**dataclasses.asdict(config.net))
        out = net(torch.empty(1, *shape), torch.zeros(1, dtype=torch.int64))
    assert out.shape == (1, *shape)


@given(
    st.integers(1, 6),
    st.integers(1, 300),
    st.integers(1, 300),
    st.one_of(st.integers(1, 50), st.integers(1, 10**7)),
    st.booleans(),
)
def test_any_shape_and_number(channels: int, height: int, width: int, count: int, light: bool) -> None:
    config = from_tables(recipe((channels, height, width), count, light=light))
    config.net.check_size(height, width)
    assert config.data.held_out < count and config.data.held_out <= 1000
    assert config.optim.warmup_steps < config.run.steps
    assert 500_000 - 128 <= config.run.steps * config.run.batch <= 100_000_000


@pytest.mark.parametrize(
    ("size", "levels", "pads"),
    [((97, 61), 4, True), ((28, 28), 3, False), ((32, 32), 4, False), ((100, 100), 4, True), ((7, 9), 1, False)],
)
def test_sizes_that_do_not_halve_are_padded_by_little(size: tuple[int, int], levels: int, pads: bool) -> None:
    """97x61 becomes 104x64 (12 % more pixels); the next factor, 112x64, would add 21 %."""
    net = from_tables(recipe((1, *size), 1000, light=False)).net
    assert (len(net.base_channels_multiples), net.pad_input) == (levels, pads)
    assert net.padded(size[0]) * net.padded(size[1]) <= 1.15 * size[0] * size[1]


@pytest.mark.parametrize(
    ("size", "patch", "levels"),
    [
        ((8, 8), 2, 1),
        ((9, 9), 1, 1),
        ((16, 16), 1, 3),
        ((28, 28), 1, 3),
        ((32, 32), 1, 4),
        ((64, 64), 2, 4),
        ((128, 128), 4, 4),
        ((512, 512), 4, 6),
    ],
)
def test_a_processor_works_on_patches(size: tuple[int, int], patch: int, levels: int) -> None:
    """At most 32 positions a side up to 64 pixels. Tiny images get the same network anywhere."""
    net = from_tables(recipe((3, *size), 1000, light=True)).net
    assert (net.patch_size, len(net.base_channels_multiples)) == (patch, levels)
    assert from_tables(recipe((3, *size), 1000, light=False)).net.patch_size == (patch if size[0] <= 12 else 1)


@pytest.mark.parametrize(
    ("side", "channels"),
    [(16, [32, 64, 64]), (17, [16, 32]), (32, [16, 32, 64, 64]), (64, [16, 32, 64, 64]), (128, [32, 64, 64, 128])],
)
def test_a_light_network_is_thin_where_there_are_many_positions(side: int, channels: list[int]) -> None:
    net = from_tables(recipe((3, side, side), 1000, light=True)).net
    assert [net.base_channels * m for m in net.base_channels_multiples] == channels


def test_without_a_gpu_the_recipe_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert recipe((3, 32, 32), 1000) == recipe((3, 32, 32), 1000, light=True)


def test_larger_sets_train_longer() -> None:
    few, many = (from_tables(recipe((3, 32, 32), n)).run.steps for n in (1000, 100_000))
    assert many > 10 * few


@pytest.mark.parametrize("name", ["cifar10", "lsun256", "review"])
def test_presets_are_what_they_say(name: str) -> None:
    assert name in presets()
    size = {"cifar10": 32, "lsun256": 256, "review": 64}[name]
    config = from_tables(merge(recipe((3, size, size), 50_000), preset(name)))
    wanted = {"cifar10": CIFAR10, "lsun256": LSUN256, "review": ab.UNetConfig()}[name]
    assert config.net == wanted
    assert float(config.schedule.build().alpha_bar[-1]) == pytest.approx(4.0358297653756754e-05, rel=1e-9)
    if name == "cifar10":
        assert (config.optim.lr, config.run.batch, config.run.steps) == (2e-4, 128, 800_000)
        assert config.ema.decay(10**6, 128) == pytest.approx(0.9999, abs=1e-6)
        assert isinstance(config.variance, ab.FixedLarge)


@pytest.mark.parametrize("name", ["cifar10", "lsun256"])
def test_the_papers_presets_go_by_its_name_too(name: str) -> None:
    assert preset(f"paper-{name}") == preset(name)
    with pytest.raises(ConfigError, match=r"'paper-review' is not one of cifar10, .*, paper-cifar10, paper-lsun256"):
        preset("paper-review")


def test_a_config_survives_its_file(tmp_path) -> None:
    config = from_tables(override(recipe((3, 32, 32), 5000), ["schedule.kind=cosine", "schedule.T=500", "seed=7"]))
    (tmp_path / "config.toml").write_bytes(dump(config))
    assert load_config(tmp_path / "config.toml") == config
    assert load_config(tmp_path / "config.toml", ["run.batch=3"]).run.batch == 3


def test_settings_may_come_in_any_order() -> None:
    """Those of a kind stay when the kind is named after them."""
    base = {"schedule": {"kind": "cosine", "s": 0.01}}
    wanted = {"schedule": {"kind": "linear", "T": 50}}
    assert override(base, ["schedule.kind=linear", "schedule.T=50"]) == wanted
    assert override(base, ["schedule.T=50", "schedule.kind=linear"]) == wanted
