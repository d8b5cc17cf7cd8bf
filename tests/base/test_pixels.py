"""The two conversions between pixels and the model's range."""

from __future__ import annotations

import pytest
import torch

from alphabar.base.errors import ConfigError, Diverged
from alphabar.base.pixels import to_model_range, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_survives_the_round_trip(dtype):
    x = to_model_range(LEVELS, dtype=dtype)
    assert x.dtype == dtype
    assert torch.equal(to_uint8(x), LEVELS)


def test_the_range_is_the_papers():
    x = to_model_range(LEVELS, dtype=torch.float64)
    expected = torch.tensor([k / 127.5 - 1 for k in range(256)], dtype=torch.float64)
    assert torch.equal(x, expected)
    assert x[0] == -1 and x[255] == 1
    assert to_model_range(LEVELS).dtype == torch.float32


@pytest.mark.parametrize("offset", [-0.49, -0.25, 0.25, 0.49])
def test_rounds_to_the_nearest_level_and_never_truncates(offset):
    between = (LEVELS.double() + offset) / 127.5 - 1
    assert torch.equal(to_uint8(between), LEVELS)


def test_values_outside_take_the_nearest_end():
    assert to_uint8(torch.tensor([-1.001, -7.0, -1e30, 1.001, 7.0, 1e30])).tolist() == [0, 0, 0, 255, 255, 255]


def test_shape_is_kept():
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_model_range(pixels)), pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int8, torch.bool])
def test_only_uint8_are_pixels(dtype):
    with pytest.raises(ConfigError, match="uint8"):
        to_model_range(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_have_no_grey_level(bad):
    with pytest.raises(Diverged, match=r"NaN|infinite"):
        to_uint8(torch.tensor([0.0, bad]))
