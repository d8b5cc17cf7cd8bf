"""alphabar figures: what it writes, what it says, and what wrong input is answered."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphabar as ab
from alphabar.cli.main import main
from alphabar.data.batch import split
from alphabar.evaluation.figures import FIGURES
from tiny import SETTINGS, files, npz, pixels

NAMES = list(FIGURES)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("figures")
    data = npz(root / "tiny.npz")
    settings = [*SETTINGS, "run.preview_every=100", "data.held_out=6"]
    assert main(["train", str(data), "--out", str(root / "run"), "--steps", "3", *settings]) == 0
    return root / "run"


@pytest.fixture
def quick(monkeypatch):
    """No matplotlib, where the pictures are not looked at."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def figures(run: Path, capsys, *more: str) -> str:
    capsys.readouterr()
    assert main(["figures", str(run), "-n", "6", *more]) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def refused(run: Path, capsys, code: int, *more: str) -> str:
    """The one line on stderr."""
    capsys.readouterr()
    assert main(["figures", str(run), "-n", "6", *more]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_all_figures_and_a_page(run, capsys):
    out = figures(run, capsys)
    folder = run / "figures"
    written = files(folder)
    for name in NAMES:
        assert f"{name}.png" in written and f"{name}.npz" in written
        assert re.search(rf"^{name} .*\.png.*\(\d+ s\)$", out, re.M), out
    assert "reverse.gif" in written and "reverse.webp" in written and "rate_distortion.txt" in written
    assert out.splitlines()[0].startswith("estimate ") and "about" in out.splitlines()[0]
    assert "11 figures" in out.splitlines()[-1] and "index.html" in out.splitlines()[-1]
    page = written["index.html"].decode()
    assert page.count("<h2>") == 11 and page.count("data:image/png") == 11 and page.count("data:image/webp") == 1
    assert "Ho et al. (2020), Fig. 8." in page and "reverse process time (T-t+1)" in page
    assert "http" not in page, "nothing is loaded from elsewhere"
    assert not [name for name in written if name.startswith(".tmp")]


def test_the_same_command_writes_the_same_data(run, capsys, tmp_path):
    for name in ("one", "two"):
        figures(run, capsys, "--only", "interpolation, quality", "--out", str(tmp_path / name))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two and set(one) == {
        *(f"interpolation{end}" for end in (".png", "-grid.png", ".npz")),
        *(f"quality{end}" for end in (".png", ".npz", ".csv")),
        "index.html",
    }
    figures(run, capsys, "--only", "quality", "--out", str(tmp_path / "other"), "--seed", "3")
    assert files(tmp_path / "other")["quality.npz"] != one["quality.npz"]


def test_without_matplotlib_data_and_grids_are_written(run, capsys, tmp_path, quick):
    out = figures(run, capsys, "--out", str(tmp_path / "out"))
    assert len(re.findall("^note ", out, re.M)) == 1 and "alphabar[plots]" in out
    written = set(files(tmp_path / "out"))
    assert {f"{name}.npz" for name in NAMES} <= written
    assert {"forward-grid.png", "coarse_to_fine-grid.png", "reverse.gif", "schedule.csv"} <= written
    assert not {f"{name}.png" for name in NAMES} & written
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<h2>") == 11 and page.count("data:image/png") == 7


def test_between_two_held_out_images(run, capsys, tmp_path, quick):
    out = tmp_path / "out"
    figures(run, capsys, "--only", "coarse_to_fine,interpolation", "--between", "3,1", "--out", str(out))
    _, held_out = split(ab.open_source(str(run.parent / "tiny.npz")), 0, 6)
    for name in ("coarse_to_fine", "interpolation"):
        with np.load(out / f"{name}.npz") as data:
            sources = data["sources"].reshape(-1, 2, 1, 8, 8)
            assert (sources == held_out.pixels[[3, 1]]).all()


def test_between_two_pictures(run, capsys, tmp_path, quick):
    two = pixels(2)
    for name, image in zip("ab", two, strict=True):
        Image.fromarray(image[0]).save(tmp_path / f"{name}.png")
    between = f"{tmp_path / 'a.png'},{tmp_path / 'b.png'}"
    figures(run, capsys, "--only", "coarse_to_fine", "--between", between, "--out", str(tmp_path / "out"))
    with np.load(tmp_path / "out" / "coarse_to_fine.npz") as data:
        assert np.array_equal(data["sources"], two)
        assert np.array_equal(data["images"][-1, 0], two[0]) and np.array_equal(data["images"][-1, -1], two[1])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "a.png and b.png" in page and str(tmp_path / "a.png") not in page


def test_steps_and_weights(run, capsys, tmp_path, quick):
    figures(run, capsys, "--only", "reverse", "--steps", "2", "--weights", "raw", "--out", str(tmp_path / "out"))
    with np.load(tmp_path / "out" / "reverse.npz") as data:
        assert data["times"].tolist() == [8, 1, 0]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "2 of 8 steps" in page and "raw weights" in page


def test_other_images(run, capsys, tmp_path, quick):
    npz(tmp_path / "other.npz", 9)
    figures(run, capsys, "--only", "forward", "--data", str(tmp_path / "other.npz"), "--out", str(tmp_path / "out"))
    with np.load(tmp_path / "out" / "forward.npz") as data:
        assert np.array_equal(data["images"], pixels(9)[:5])


def test_a_saved_model_has_figures_of_samples(run, capsys, tmp_path, quick):
    ab.save(ab.load(run), tmp_path / "model")
    out = figures(tmp_path / "model", capsys)
    written = set(files(tmp_path / "model-results" / "figures"))
    assert {f"{name}.npz" for name in ("schedule", "reverse", "progressive", "shared_latents")} <= written
    assert not any(name.startswith(("nearest", "terms", "forward", "quality")) for name in written)
    assert len(re.findall("^note ", out, re.M)) == 1 + 7 + 1 and "4 figures" in out
    data = str(run.parent / "tiny.npz")
    out = figures(tmp_path / "model", capsys, "--data", data, "--out", str(tmp_path / "with"))
    assert "9 figures" in out and "no nearest" in out and "no quality" in out
    error = refused(tmp_path / "model", capsys, 3, "--only", "schedule,nearest")
    assert "nearest: needs the training images" in error


def test_a_run_without_held_out_images(tmp_path, capsys, quick):
    data = npz(tmp_path / "tiny.npz")
    settings = [*SETTINGS, "run.preview_every=100", "data.held_out=0"]
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--steps", "1", *settings]) == 0
    out = figures(tmp_path / "run", capsys, "--only", "forward,interpolation,nearest")
    assert "3 figures" in out
    with np.load(tmp_path / "run" / "figures" / "forward.npz") as found:
        assert len(found["images"]) == 5
    assert "not trained on" in refused(tmp_path / "run", capsys, 3, "--only", "terms")


def test_images_that_changed_are_not_used(run, capsys, tmp_path, quick):
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    npz(tmp_path / "tiny.npz", 30)
    config = moved / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent), str(tmp_path)))
    out = figures(moved, capsys)
    assert "the images changed" in out and "4 figures" in out
    (tmp_path / "tiny.npz").unlink()
    assert "4 figures" in figures(moved, capsys)


def test_wrong_settings(run, capsys, tmp_path):
    error = refused(run, capsys, 2, "--only", "schedule,forwrd")
    assert "forwrd" in error and "did you mean 'forward'" in error
    for between in ("3", "3,4,5", "3,", ",", "a"):
        assert "need two images" in refused(run, capsys, 2, "--between", between)
    assert "6 held-out images, 0 to 5" in refused(run, capsys, 2, "--between", "0,6")
    assert "at least 2" in refused(run, capsys, 2, "-n", "1")
    assert "need 1 … 8" in refused(run, capsys, 2, "--steps", "9")
    assert "--weights" in refused(run, capsys, 2, "--weights", "best")
    assert "seed" in refused(run, capsys, 2, "--seed", "-1")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(run, capsys, 2, "--out", str(tmp_path / "file"))
    assert "no such" in refused(tmp_path / "nothing", capsys, 4)
    assert "no such" in refused(run, capsys, 3, "--data", str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing-results").exists()


def test_wrong_pictures(run, capsys, tmp_path):
    Image.fromarray(pixels(1)[0, 0]).save(tmp_path / "good.png")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "size.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "folder").mkdir()
    for name, words in {
        "size.png": "8x9 pixels",
        "colour.png": "3 channels",
        "text.png": "needs pictures",
        "cut.png": "cut.png",
        "folder": "folder",
        "none.png": "No such file",
    }.items():
        error = refused(run, capsys, 3, "--between", f"{tmp_path / 'good.png'},{tmp_path / name}")
        assert words in error and name in error, error


def test_nothing_is_written_beside_its_folder(run, capsys, tmp_path, quick):
    before = {name: data for name, data in files(run).items() if not name.startswith("figures")}
    figures(run, capsys, "--only", "schedule", "--out", str(tmp_path / "a" / "b"))
    assert {name: data for name, data in files(run).items() if not name.startswith("figures")} == before
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
