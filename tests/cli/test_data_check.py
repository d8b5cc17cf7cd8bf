"""``alphabar data check``, and what ``train`` and ``sample`` make of images that are not 8-bit squares."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.cli import train
from alphabar.cli.main import main
from alphabar.runtime.recipes import recipe
from alphabar.weights import checkpoint
from data.corpus import good
from data.pictures import encode, grey, rgb, write
from tiny import SETTINGS

Capture = pytest.CaptureFixture[str]
SMALL = [one for one in SETTINGS if "multiples" not in one and "attention=" not in one]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience: 0.01)
    return tmp_path


def mixed(root: Path) -> None:
    """52 files: 48 good ones of two classes and sizes, a copy, a constant one, and two bad ones."""
    for n in range(48):
        write(root / "ab"[n % 2] / f"{n:02}.png", encode(rgb(n, 32, 40 if n % 4 else 32)))
    write(root / "a" / "again.png", encode(rgb(0, 32, 32)))
    write(root / "b" / "black.png", encode(np.zeros((32, 32, 3), np.uint8)))
    write(root / "b" / "broken.jpg", encode(rgb(0, 32, 32), "JPEG")[:500])
    write(root / "b" / "page.jpg", b"<html>")


def test_the_report_names_everything(here: Path, capsys: Capture) -> None:
    mixed(here / "set")
    assert main(["data", "check", "set"]) == 0
    out = capsys.readouterr().out.splitlines()
    for line in (
        "data         set: 50 images of 3 x 32 x 32",
        "formats      50 PNG",
        "modes        50 RGB",
        "sizes        36 32x40, 14 32x32",
        "classes      25 a, 25 b",
        "bad          b/page.jpg: HTML page, not an image",
        "repeated     a/again.png has the pixels of a/00.png",
        "constant     b/black.png",
        "off-size     a/00.png: 32x32",
        "off-size     … and 4 more; --json lists all",
        "note         36 images of other sizes brought to 32x32 (shorter side resized, centre cut out)",
        "sheet        set-sheet.png: images as the network will see them",
    ):
        assert line in out, line
    assert any(line.startswith("bad          b/broken.jpg: truncated image") for line in out)
    assert any(line.startswith("would train  a U-Net of ") for line in out)
    with Image.open("set-sheet.png") as sheet:
        side = 2 * 32 + 2  # each pixel twice, and a gap
        assert sheet.size == (8 * side + 2, 7 * side + 2)
        pixels = np.asarray(sheet)
    assert (pixels[2 : 2 + 64 : 2, 2 : 2 + 64 : 2] == rgb(0, 32, 32)).all()


def test_json_has_all_of_it(here: Path, capsys: Capture) -> None:
    mixed(here / "set")
    assert main(["data", "check", "set", "--json", "--sheet", "sheets/x.png"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["shape"], facts["usable"]) == (50, [3, 32, 32], True)
    assert [bad["file"] for bad in facts["bad"]] == ["b/broken.jpg", "b/page.jpg"]
    assert facts["repeated"] == [{"file": "a/again.png", "same_as": "a/00.png"}]
    assert facts["constant"] == ["b/black.png"]
    assert len(facts["off_size"]) == 14
    assert facts["classes"] == {"a": 25, "b": 25}
    assert facts["settings"] == json.loads(json.dumps(recipe((3, 32, 32), 50)))
    assert os.listdir("sheets") == ["x.png"]


def test_too_many_bad_files_still_get_a_report(here: Path, capsys: Capture) -> None:
    mixed(here / "set")
    write(here / "set" / "b" / "empty.png", b"")
    assert main(["data", "check", "set", "--json"]) == 3
    caught = capsys.readouterr()
    facts = json.loads(caught.out)
    assert (facts["usable"], facts["images"], facts["settings"], len(facts["bad"])) == (False, 50, None, 3)
    assert "that is 3 of 53, allowed are 5 %; repair or remove them\n" in caught.err
    assert main(["train", "set"]) == 3
    assert "repair or remove them; alphabar data check set lists all" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_it_takes_every_source_and_data_settings_only(here: Path, capsys: Capture) -> None:
    assert main(["data", "check", "digits", "data.size=4"]) == 0
    assert "classes      183 3, 182 1" in (out := capsys.readouterr().out)
    assert "1,797 images of 1 x 4 x 4" in out
    assert main(["data", "check", "digits", "run.batch=4"]) == 2
    assert "run: data check takes the settings data.* only" in capsys.readouterr().err
    assert main(["data", "check", "digits", "data.fitt=pad"]) == 2
    assert "data.fitt: unknown key (did you mean 'fit'?)" in capsys.readouterr().err


def test_grey_images_of_an_odd_size_train_with_no_flag(here: Path, capsys: Capture) -> None:
    for n in range(12):
        write(here / "odd" / f"{n}.png", encode(grey(n, 97, 61)))
    assert main(["train", "odd", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "images       1 x 97 x 61" in out
    # what patches of 4 and one down-sampling need: 104x64
    assert "levels       26x16 patches of 4x4: 32 channels, 13x8: 64 channels" in out
    assert "pad_input = true" in out
    fast = ["net.base_channels=4", "net.norm_groups=2", "net.attention_heads=1", "net.num_res_blocks=1"]
    short = ["run.batch=2", "schedule.T=2", "data.held_out=0", "run.precision=fp32"]
    assert main(["train", "odd", "--steps", "1", *fast, *short]) == 0
    assert main(["sample", "runs/odd", "-n", "1", "--out", "out"]) == 0
    with Image.open("out/00000.png") as image:
        assert (image.mode, image.size) == ("L", (61, 97))


def test_16_bit_images_come_back_as_16_bit_images(here: Path, capsys: Capture) -> None:
    for n in range(12):
        values = np.clip(np.random.default_rng(n).normal(2000, 500, (16, 16)), 0, 4095)
        write(here / "scans" / f"{n}.png", encode(values.astype(np.uint16)))
    command = ["train", "scans", "--steps", "1", *SETTINGS]
    assert main([*command, "data.value_range=[0,4095]"]) == 0
    assert main([*command[:-1], "--steps", "2"]) == 0  # the range need not be said again
    assert main(["inspect", "runs/scans"]) == 0
    assert "units        -1 … 1 is 0 … 4095, samples as uint16" in capsys.readouterr().out
    assert main(["sample", "runs/scans", "-n", "3", "--out", "out"]) == 0
    with Image.open("out/00000.png") as image:
        assert image.mode == "I;16"
        values = np.asarray(image)
    assert values.dtype == np.uint16 and values.max() <= 4095 and len(np.unique(values)) > 50
    assert json.loads(Path("out/manifest.json").read_text())["units"] == {"low": 0, "high": 4095, "dtype": "uint16"}
    assert main(["evaluate", "runs/scans"]) == 3
    assert "8 bits" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 5])
def test_signed_data_come_back_in_their_own_values(here: Path, capsys: Capture, channels: int) -> None:
    for n in range(12):
        values = np.random.default_rng(n).normal(-300, 200, (8, 8, channels)).astype(np.float32)
        Path("ct").mkdir(exist_ok=True)
        np.save(f"ct/{n}.npy", values)
    assert main(["train", "ct", "--steps", "1", *SETTINGS]) == 3
    assert "give the values of black and white, data.value_range=[" in capsys.readouterr().err
    assert main(["train", "ct", "--steps", "1", *SETTINGS, "data.value_range=[-1024,1024]"]) == 0
    denoiser = checkpoint.load("runs/ct")
    assert denoiser.units is not None and (denoiser.units.low, denoiser.units.high) == (-1024, 1024)
    assert main(["sample", "runs/ct", "-n", "2", "--out", "out"]) == 0
    file = "out/00000.npy" if channels == 1 else "out/samples.npy"
    values = np.load(file)
    assert values.shape == ((1, 8, 8) if channels == 1 else (2, 5, 8, 8))
    assert values.dtype == np.float32
    assert -1024 <= values.min() < values.max() <= 1024
    assert values.min() < -5


def test_left_out_files_are_capped(here: Path, capsys: Capture) -> None:
    for n in range(300):
        write(here / "set" / f"{n:03}.png", good(n) if n >= 12 else b"text")
    assert main(["train", "set", "--dry-run", *SETTINGS]) == 0
    out = capsys.readouterr().out
    assert out.count("left out     0") == 10
    assert "left out     … and 2 more; alphabar data check lists all" in out
