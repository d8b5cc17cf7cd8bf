"""What holds for every figure: files with and without matplotlib, captions, notebooks, kinds of images."""

from __future__ import annotations

import base64
import csv
import io
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.base.errors import ConfigError, DataError, MissingExtra
from alphabar.evaluation.figures import FIGURES, Figure, Subject, Table, Unavailable
from alphabar.evaluation.figures.render import WIDTH
from alphabar.evaluation.figures.sheet import Sheet

NAMES = list(FIGURES)
PLOTS = ["schedule", "rate_distortion", "terms", "quality"]
PICTURES = [name for name in NAMES if name not in PLOTS]


@pytest.fixture(scope="module")
def made(subject) -> dict[str, Figure]:
    return {name: FIGURES[name](subject) for name in NAMES}


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def check_data(figure: Figure, folder, files: set[str]) -> None:
    name = figure.name
    with np.load(folder / f"{name}.npz") as data:
        assert set(data.files) == set(figure.arrays) and len(data.files) > 1
        for key in data.files:
            assert np.array_equal(data[key], figure.arrays[key], equal_nan=data[key].dtype.kind == "f")
    for suffix, table in figure.tables.items():
        text = (folder / (f"{name}-{suffix}.csv" if suffix else f"{name}.csv")).read_text()
        rows = list(csv.reader(io.StringIO(text)))
        assert rows[0] == list(table.columns) and len(rows) == len(table.rows) + 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert [float(x) for x in rows[1][:2]] == [float(x) for x in table.rows[0][:2]]
    for suffix in figure.grids:
        with Image.open(folder / f"{name}-{suffix}.png") as picture:
            assert max(picture.size) >= 64 and picture.mode in ("L", "RGB")
    assert all(file.startswith(name) for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_files_with_matplotlib(made, name, tmp_path):
    figure = made[name]
    written = figure.write(tmp_path)
    files = {path.name for path in written}
    assert {path.name for path in tmp_path.iterdir()} == files and len(files) == len(written)
    check_data(figure, tmp_path, files)
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert WIDTH <= picture.width <= 1.2 * WIDTH and 300 < picture.height < 1400 and picture.mode == "RGB"
        white = (np.asarray(picture) == 255).all(2).mean()
        assert 0.1 < white < 0.99, "an empty picture"
    assert name not in PICTURES or f"{name}-grid.png" in files


@pytest.mark.parametrize("name", NAMES)
def test_files_without_matplotlib(made, name, tmp_path, no_matplotlib):
    figure = made[name]
    files = {path.name for path in figure.write(tmp_path)}
    assert f"{name}.png" not in files and f"{name}.npz" in files
    check_data(figure, tmp_path, files)
    assert name not in PICTURES or f"{name}-grid.png" in files
    with pytest.raises(MissingExtra, match="plots"):
        figure.png()
    assert figure.caption[:20] in figure._repr_html_()
    png = figure._repr_png_()
    assert (png is None) == (name in PLOTS)
    assert png is None or png.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["forward", "reverse", "rate_distortion"])
def test_a_notebook_shows_caption_and_pictures(made, name):
    figure = made[name]
    page = figure._repr_html_()
    assert figure.caption in page and figure.title in page
    found = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    assert [kind for kind, _ in found] == ["png", *["webp"] * bool(figure.frames)]
    for _, data in found:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.width >= 64
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert (figure.text != "") == ("<pre>" in page)


@pytest.mark.parametrize("name", NAMES)
def test_words(made, name):
    figure = made[name]
    assert figure.name == name and figure.title and "Ho et al. (2020)" in figure.caption
    assert 80 < len(figure.caption) < 800 and figure.caption.endswith(".")
    assert figure.caption[0].isupper() and "  " not in figure.caption and "None" not in figure.caption


def test_the_animation_has_every_frame_and_ends_with_the_samples(made, subject, tmp_path):
    figure = made["reverse"]
    figure.write(tmp_path)
    for kind in ("gif", "webp"):
        with Image.open(tmp_path / f"reverse.{kind}") as animation:
            assert animation.n_frames == len(figure.frames) == len(subject.chain) + 1
    with Image.open(tmp_path / "reverse.webp") as animation:
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("L"))
    assert np.array_equal(last, figure.frames[-1][0].numpy())


def test_the_same_subject_gives_the_same_figure(subject, made):
    for name in ("interpolation", "reverse", "quality"):
        again = FIGURES[name](subject)
        for key, array in made[name].arrays.items():
            assert np.array_equal(again.arrays[key], array, equal_nan=array.dtype.kind == "f"), (name, key)


@pytest.mark.parametrize("channels,size,classes", [(3, 8, 0), (1, 32, 0), (1, 8, 3)])
def test_other_images_and_classes(make_subject, channels, size, classes, tmp_path):
    subject = make_subject(channels, classes, size=size, T=6, steps=3)
    for name in NAMES:
        figure = FIGURES[name](subject)
        assert figure.arrays
        if name in ("coarse_to_fine", "nearest"):
            with Image.open(io.BytesIO(figure.png())) as picture:
                assert WIDTH <= picture.width <= 1.2 * WIDTH


@pytest.mark.parametrize("T,steps", [(2, 1), (2, 2), (12, 1)])
def test_very_short_chains(make_subject, T, steps):
    subject = make_subject(T=T, steps=steps)
    for name in NAMES:
        figure = FIGURES[name](subject)
        assert name not in ("terms", "rate_distortion", "coarse_to_fine") or figure.png(words=False)


def test_a_single_image(make_subject):
    whole = make_subject()
    one = whole.held_out.subset(np.arange(1))
    subject = make_subject(T=4, train=None, held_out=one)
    for name in ("forward", "rate_distortion", "terms"):
        assert FIGURES[name](subject).png()
    for name in ("interpolation", "coarse_to_fine"):
        with pytest.raises(Unavailable, match="two images"):
            FIGURES[name](subject)


def test_what_needs_images_says_so(make_subject):
    subject = make_subject(T=4, train=None, held_out=None)
    for name in ("forward", "interpolation", "coarse_to_fine", "nearest", "rate_distortion", "terms", "quality"):
        with pytest.raises(Unavailable, match="needs"):
            FIGURES[name](subject)
    for name in ("schedule", "reverse", "progressive", "shared_latents"):
        assert FIGURES[name](subject).arrays


def test_images_that_cannot_be_shown(make_subject):
    subject = make_subject(2, T=4)
    for name in PICTURES:
        with pytest.raises(Unavailable, match="2 channels"):
            FIGURES[name](subject)
    for name in PLOTS:
        assert FIGURES[name](subject).png()


def test_the_network_is_left_as_it_was(make_subject):
    subject = make_subject(T=4)
    subject.denoiser.train()
    FIGURES["reverse"](subject)
    assert subject.denoiser.training


@pytest.mark.parametrize("over", [{"n": 1}, {"seed": -1}, {"label": 1}])
def test_settings_that_cannot_be_right(make_subject, over):
    with pytest.raises(ConfigError):
        make_subject(**over)


def test_images_of_another_shape(make_subject):
    other = make_subject(3).train
    with pytest.raises(DataError, match="the model makes"):
        make_subject(1, train=other)


def test_labels_of_samples(make_subject):
    subject = make_subject(classes=3)
    assert subject.labels([0, 1, 2, 3, 7]).tolist() == [0, 1, 2, 0, 1]
    assert make_subject(classes=3, label=2).labels([0, 1]).tolist() == [2, 2]
    assert make_subject().labels([0]) is None
    assert subject.labels_of(subject.held_out, [0, 1]).tolist() == subject.held_out.labels[:2].tolist()


def test_calls_are_counted(make_subject):
    """What the estimate of the time rests on, against the number of images that reach the network."""
    subject = make_subject(steps=12)
    seen = 0

    def count(module, args):
        nonlocal seen
        seen += len(args[0])

    handle = subject.denoiser.register_forward_pre_hook(count)
    for name in NAMES:
        seen = 0
        recipe = FIGURES[name]
        first = recipe.uses_bound and "bound" not in subject.__dict__
        expected = recipe.calls(subject) + (subject.bound_calls if first else 0)
        recipe(subject)
        assert 0.5 * expected <= seen <= 2 * expected, (name, seen, expected)
    handle.remove()


def test_a_table_as_text():
    table = Table(["t", "rate (bits)"], [[10, 0.5], [2, 12.0]])
    assert table.text(2).splitlines() == [" t   rate (bits)", "10          0.50", " 2         12.00"]
    assert table.csv() == b"t,rate (bits)\n10,0.5\n2,12.0\n"


@pytest.mark.parametrize("channels,size", [(1, 8), (3, 8), (1, 28), (3, 32), (3, 64), (1, 5)])
def test_every_pixel_is_a_square_of_whole_pixels(channels, size):
    from alphabar.evaluation.figures.render import drawn

    rng = torch.Generator().manual_seed(0)
    tile = torch.randint(0, 250, (channels, size, size), generator=rng, dtype=torch.uint8)
    sheet = Sheet([[tile, None, tile]], left=["row"], columns=["a", "b", "c"], below=[["1", "", "2"]], breaks=[0])
    found = drawn(sheet.draw).astype(int)
    colours = tile.expand(3, size, size).permute(1, 2, 0).numpy().astype(int)
    factor = 128 // size
    wanted = colours.repeat(factor, 0).repeat(factor, 1)
    side = size * factor
    corners = np.argwhere((found == wanted[0, 0]).all(2))
    whole = [
        (y, x)
        for y, x in corners
        if found[y : y + side, x : x + side].shape == wanted.shape
        and np.array_equal(found[y : y + side, x : x + side], wanted)
    ]
    assert len(whole) == 2 and whole[0][0] == whole[1][0]


def test_large_pictures_are_made_smaller():
    from alphabar.evaluation.figures.render import drawn

    tile = torch.zeros((3, 300, 200), dtype=torch.uint8)
    height, width, _ = drawn(Sheet([[tile] * 5]).draw).shape
    assert width == WIDTH and height < 200
    assert Sheet([[tile] * 2]).picture().shape == (3, 308, 412)


def test_an_unknown_figure():
    with pytest.raises(ConfigError, match=r"forwards.*did you mean 'forward'"):
        FIGURES["forwards"]


def test_a_subject_is_of_one_chain(subject):
    assert isinstance(subject, Subject) and len(subject.bound.nats) == 6
    assert subject.bound is subject.bound, "computed once"
