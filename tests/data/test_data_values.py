"""Images that are not 8-bit grey or RGB: arrays of any number of channels, 16 bits, floats, pages; odd sizes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alphabar.base.errors import ConfigError, DataError
from alphabar.base.pixels import Units, to_model_range
from alphabar.data import open_source
from alphabar.data.fit import FITS
from alphabar.data.reading import Reading
from data.pictures import encode, grey, rgb, write


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def refused(root: Path, reading: Reading | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_source(str(root), reading)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "axes"), [((8, 9), None), ((8, 9, 5), (2, 0, 1)), ((5, 8, 9), (0, 1, 2)), ((8, 9, 1), (2, 0, 1))]
)
def test_a_folder_of_arrays(tmp_path: Path, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    arrays = [np.random.default_rng(n).integers(0, 256, shape, np.uint8) for n in range(3)]
    for n, array in enumerate(arrays):
        write(tmp_path / f"{n}.npy", npy(array))
    expected = [array[None] if axes is None else array.transpose(axes) for array in arrays]
    images = open_source(str(tmp_path))
    assert (images.pixels == np.stack(expected)).all()
    assert images.notes == ()
    assert not images.reduced and images.units is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.zeros((3, 8, 8), np.uint8))[:-5], "truncated array (5 bytes missing)"),
        (npy(np.zeros((3, 8, 8), np.uint8)) + b"x", "damaged array (1 bytes too many)"),
        (npy(np.zeros((3, 3, 3), np.uint8)), "does not say which axis is channels"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), "is not one image"),
        (npy(np.zeros((0, 4), np.uint8)), "holds no pixels"),
        (npy(np.array([["a"]])), "<U1 values are no pixels"),
        (npy(np.full((4, 4), np.nan, np.float32)), "16 of its float32 values are NaN or infinite"),
        (npy(np.array([[{}]], dtype=object)), "holds pickled Python objects, which are never loaded"),
        (b"\x93NUMPY garbage", "damaged image data"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, content: bytes, words: str) -> None:
    write(tmp_path / "a.npy", content)
    assert "a.npy (" in refused(tmp_path)
    assert words in refused(tmp_path)


def test_arrays_beside_pictures_are_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "embeddings.npy", npy(np.zeros((8, 8), np.float32)))
    images = open_source(str(tmp_path))
    assert (len(images), images.notes) == (1, ("1 other file ignored (such as embeddings.npy)",))


def test_images_of_other_channels_are_bad(tmp_path: Path) -> None:
    for n in range(24):
        write(tmp_path / f"{n:02}.npy", npy(np.full((6, 8, 8), n, np.uint8)))
    write(tmp_path / "odd.npy", npy(np.zeros((5, 8, 8), np.uint8)))
    images = open_source(str(tmp_path))
    assert images.shape == (6, 8, 8)
    assert images.survey is not None
    assert [str(bad) for bad in images.survey.bad] == ["odd.npy (5 channels, most images have 6)"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32, np.uint32])
def test_values_without_a_range_say_which_setting_to_give(tmp_path: Path, dtype: Any) -> None:
    values = (np.arange(64).reshape(8, 8) * 10 + 5).astype(dtype)
    write(tmp_path / "a.npy", npy(values))
    write(tmp_path / "b.npy", npy(values + dtype(300)))
    message = refused(tmp_path)
    assert f"a.npy ({np.dtype(dtype)} values from 5 to 635 have no known range" in message
    assert "give the values of black and white, data.value_range=[5,935]" in message
    images = open_source(str(tmp_path), Reading(value_range=(5, 935)))
    assert images.pixels[:, 0].tolist() == [np.rint((v - 5) / 930 * 255).tolist() for v in (values, values + 300)]
    assert images.units == Units(5, 935, "float32")
    assert images.reduced


def test_values_beyond_the_range_are_set_to_its_ends_and_noted(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", npy(np.array([[-3.0, -1.0, 0.0, 1.0, 9.0]] * 5)))
    images = open_source(str(tmp_path), Reading(value_range=(-1, 1)))
    assert images.pixels[0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert "1 image with values outside data.value_range, set to its nearer end" in images.notes


def test_16_bits_keep_their_mean_within_one_level(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(20_000, 60_000, (40, 40)).astype(np.uint16)
    write(tmp_path / "a.png", encode(values))
    images = open_source(str(tmp_path))
    assert abs(images.pixels.mean() / 255 - values.mean() / 65535) < 1 / 255 / 2
    assert images.units == Units(0, 65535, "uint16")


def test_dark_16_bits_are_noted_with_the_setting_that_helps(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(np.linspace(3, 4095, 64).reshape(8, 8).astype(np.uint16)))
    assert any("data.value_range=[3,4095] uses all levels" in note for note in open_source(str(tmp_path)).notes)
    images = open_source(str(tmp_path), Reading(value_range=(0, 4095)))
    assert images.pixels.max() == 255
    assert images.units == Units(0, 4095, "uint16")
    assert not any("uses all levels" in note for note in images.notes)


def test_a_mix_of_depths_has_no_units(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(grey(0).astype(np.uint16)))
    write(tmp_path / "b.png", encode(grey(1)))
    images = open_source(str(tmp_path))
    assert images.units is None and images.reduced


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(0, 255))
def test_units_are_the_inverse_of_the_scale(low: float, width: float, level: int) -> None:
    units = Units(low, low + width, "float32")
    x = to_model_range(torch.tensor([level], dtype=torch.uint8))
    assert units.values(x)[0] == pytest.approx(low + width * level / 255, rel=1e-6, abs=1e-6 * (abs(low) + width))


def pages(kind: str = "TIFF", *, size: tuple[int, int] = (8, 8)) -> bytes:
    first, *rest = (Image.fromarray(grey(n, *((8, 8) if n < 2 else size))) for n in range(3))
    return encode(first, kind, save_all=True, append_images=rest)


def test_pages_are_one_image_many_images_or_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", pages())
    stack = np.stack([grey(n) for n in range(3)])
    first, many, channels = (open_source(str(tmp_path), Reading(pages=way)) for way in ("first", "images", "channels"))
    assert (first.pixels == stack[None, :1]).all()
    assert (many.pixels == stack[:, None]).all()
    assert (channels.pixels == stack[None]).all()
    assert first.notes == ("1 image with several frames, only the first used (data.pages=images or channels uses all)",)
    assert many.survey is not None and many.survey.files == ("a.tif",) * 3
    assert channels.notes == ("1 image with several frames as channels",)


def test_pages_that_differ_are_no_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", pages(size=(9, 9)))
    assert "a.tif (its pages are not all grey and of one size" in refused(tmp_path, Reading(pages="channels"))


@pytest.mark.parametrize("shape", [(20, 10), (10, 20), (7, 7), (40, 40), (40, 10)])
def test_padding_keeps_all_of_an_image(shape: tuple[int, int]) -> None:
    placed = FITS["pad"].place(np.full((*shape, 3), 9, np.uint8), 20, 20, 200)
    scale = min(1, 20 / max(shape))
    inside = (placed == 9).all(2)
    assert placed.shape == (20, 20, 3)
    assert inside.sum() == round(shape[0] * scale) * round(shape[1] * scale)
    assert (placed[~inside] == 200).all()
    rows, columns = np.nonzero(inside)
    assert abs(rows.min() - (19 - rows.max())) <= 1 and abs(columns.min() - (19 - columns.max())) <= 1


def test_padding_takes_images_of_any_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(rgb(0, 40, 30)))
    write(tmp_path / "b.png", encode(rgb(0, 9, 9)))
    images = open_source(str(tmp_path), Reading(size=32, fit="pad", background=0))
    assert images.shape == (3, 32, 32)
    assert any("of other sizes brought to 32x32 (longer side" in note for note in images.notes)


def test_a_few_small_images_do_not_shrink_the_others(tmp_path: Path) -> None:
    for n in range(100):
        write(tmp_path / f"{n:03}.png", encode(np.full((33 + n % 2, 40), n, np.uint8)))
    write(tmp_path / "small.png", encode(grey(0, 20, 20)))
    images = open_source(str(tmp_path))
    assert images.shape == (1, 32, 32)
    assert images.survey is not None
    assert str(images.survey.bad[0]).startswith("small.png (20x20 is smaller than 32x32")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"fit": "stretch"}, "'stretch' is not one of crop, pad"),
        ({"pages": "all"}, "'all' is not one of first, images, channels"),
        ({"value_range": (1, 1)}, "value_range = [1, 1]: needs two finite numbers"),
        ({"background": 256}, "background = 256"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Reading(**setting)
    assert words in str(caught.value)


def test_arrays_of_any_numbers_with_a_range(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8)
    np.savez(tmp_path / "a.npz", images=values, labels=np.arange(3))
    np.save(tmp_path / "a.npy", values)
    for name in ("a.npz", "a.npy"):
        assert "data.value_range=[-1,1]" in refused(tmp_path / name)
        images = open_source(str(tmp_path / name), Reading(value_range=(-1, 1)))
        assert (images.pixels[:, 0] == np.rint((values.astype(np.float64) + 1) * 127.5)).all()
        assert images.units == Units(-1, 1, "float32") and images.reduced
