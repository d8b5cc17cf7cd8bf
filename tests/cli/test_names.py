"""Names that could move the cursor, hide text or break a line are escaped wherever a command prints them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.cli.main import main
from refusal import refused
from tiny import SETTINGS, npz, pixels

# red, right-to-left override, line break, tab, a byte that is no UTF-8, a C1 control
EVIL = "e\x1b[31m\u202ev\ni\tl\udcff\x9b2J"
TEXT = EVIL.replace("\udcff", "")  # what a config can hold
SHOWN = r"e\x1b[31m\u202ev\ni\tl\udcff\x9b2J"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A working directory in which a run, its images, their folders and their classes have evil names."""
    root = tmp_path_factory.mktemp("names")
    for number, picture in enumerate(pixels(24)[:, 0]):
        folder = root / f"photos{TEXT}" / f"class{number % 2}{EVIL}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(os.fsencode(folder / f"{number}{EVIL}.png"))
    return root


def settings() -> list[str]:
    return [*SETTINGS, "--steps", "2", "run.save_every=1", "net.num_classes=2"]


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    before = os.getcwd()
    os.chdir(trained)
    try:
        assert main(["train", f"photos{TEXT}", "--out", f"run{EVIL}", *settings()]) == 0
    finally:
        os.chdir(before)
    return trained


@pytest.fixture
def here(run, monkeypatch) -> Path:
    monkeypatch.chdir(run)
    return run


def said(capsys, arguments: list[str]) -> str:
    """What a command that works says, of which every line is printable."""
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    for line in (captured.out + captured.err).split("\n"):
        assert line.isprintable(), repr(line)
    return captured.out + captured.err


def test_what_works_prints_no_name_as_it_is(here, capsys):
    run = f"run{EVIL}"
    for arguments in (
        ["train", f"photos{TEXT}", "--out", run, *settings()],
        ["train", f"photos{TEXT}", "--dry-run", *settings()],
        ["inspect", run],
        ["sample", run, "-n", "2", "--steps", "2", "--out", f"out{EVIL}"],
        ["sample", run, "-n", "2", "--steps", "2"],
        ["evaluate", run, "--metrics", "copies,fid", "--features", "pixels", "-n", "4", "--steps", "2"],
        ["figures", run, "--only", "forward", "-n", "2", "--steps", "2", "--out", f"figures{EVIL}"],
        ["classifier", f"photos{TEXT}", "--name", "two", "--epochs", "1"],
    ):
        text = said(capsys, arguments)
        assert r"\x1b[31m" in text or arguments[0] == "classifier", arguments


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", f"no{EVIL}"], 3),
        (["train", f"folder:{EVIL}"], 3),
        (["train", f"{EVIL}:x"], 3),
        (["train", "digits#" + EVIL], 3),
        (["train", "digits", f"{EVIL}=1"], 2),
        (["train", "digits", f"run.{EVIL}=1"], 2),
        (["train", "digits", f"optim.optimizer='{EVIL}'"], 2),
        (["train", "digits", f"optim.rate={EVIL}"], 2),
        (["train", "digits", f"run.precision={EVIL}"], 2),
        (["train", "digits", f"schedule.kind={EVIL}"], 2),
        (["train", "digits", f"denoiser.variance={EVIL}"], 2),
        (["train", "digits", f"denoiser.{EVIL}=1"], 2),
        (["train", "digits", EVIL], 2),
        (["train", "digits", f"--{EVIL}"], 2),
        (["train", "digits", "--preset", EVIL], 2),
        (["train", "digits", "--config", EVIL], 2),
        (["train", "digits", "--steps", EVIL], 2),
        (["train", "digits", "--out", f"file{EVIL}/x"], 5),
        ([EVIL], 2),
        (["sample", EVIL], 4),
        (["sample", f"file{EVIL}"], 4),
        (["sample", "RUN", "--sampler", EVIL], 2),
        (["sample", "RUN", "--weights", EVIL], 2),
        (["sample", "RUN", "--seeds", EVIL], 2),
        (["sample", "RUN", "--out", f"file{EVIL}"], 2),
        (["sample", "RUN", "--out", f"photos{TEXT}"], 5),
        (["sample", "RUN", f"chain.spacing={EVIL}"], 2),
        (["sample", "RUN", f"chain.{EVIL}=1"], 2),
        (["sample", "RUN", f"sampler.{EVIL}=1"], 2),
        (["sample", "RUN", f"{EVIL}.a=1"], 2),
        (["evaluate", EVIL], 4),
        (["evaluate", "RUN", "--metrics", EVIL], 2),
        (["evaluate", "RUN", "--data", EVIL], 3),
        (["evaluate", "RUN", "--metrics", "fid", "--reference", EVIL], 3),
        (["evaluate", "RUN", "--metrics", "fid", "--features", EVIL], 2),
        (["evaluate", "RUN", "--metrics", "fid", "--features", f"classifier:{EVIL}"], 2),
        (["evaluate", "RUN", "--metrics", "fid", "--features", f"inception:{EVIL}.pt"], 4),
        (["evaluate", "RUN", "--metrics", "fid", "--features", f"inception:file{EVIL}"], 4),
        (["evaluate", "RUN", "--metrics", "fid", "--features", f"{EVIL}:f@ok.safetensors"], 2),
        (["evaluate", "RUN", "--metrics", "fid", "--features", f"{EVIL}.py:f@ok.safetensors"], 2),
        (["figures", EVIL], 4),
        (["figures", "RUN", "--only", EVIL], 2),
        (["figures", "RUN", "--between", EVIL], 2),
        (["figures", "RUN", "--between", f"{EVIL},b.png"], 3),
        (["figures", "RUN", "--data", EVIL], 3),
        (["figures", "RUN", "--weights", EVIL], 2),
        (["figures", "RUN", "--out", f"file{EVIL}"], 2),
        (["inspect", EVIL], 4),
        (["classifier", EVIL], 3),
        (["classifier", "digits", "--name", EVIL], 2),
        (["demo", "--out", f"file{EVIL}"], 5),
    ],
    ids=lambda value: " ".join(value).replace(EVIL, "EVIL") if isinstance(value, list) else "",
)
def test_what_is_refused_prints_no_name_as_it_is(here, capsys, arguments, code):
    Path(f"file{EVIL}").write_text("text")
    if not Path("ok.safetensors").exists():
        import safetensors.torch
        import torch

        safetensors.torch.save_file({"a": torch.zeros(1)}, "ok.safetensors")
    given = [word.replace("RUN", f"run{EVIL}") for word in arguments]
    message = refused(capsys, given, code)
    assert r"\x1b" in message or r"\u202e" in message or "--steps" in arguments, message


def test_names_in_a_config(here, capsys):
    name = r"e\u001b[31m\u202ev\ni"
    for content in (f'"{name}" = 1\n', f'[run]\n"{name}" = 1\n', f'[run]\nbatch = "{name}"\n'):
        Path("x.toml").write_text(content)
        message = refused(capsys, ["train", "digits", "--out", "new", "--config", "x.toml"], 2)
        assert r"\x1b" in message or r"\u001b" in message


def test_images_whose_path_no_config_can_hold(here, capsys):
    if not Path(EVIL).exists():
        Path(EVIL).symlink_to(f"photos{TEXT}")
    assert "no UTF-8" in refused(capsys, ["train", EVIL, "--out", "new"], 2, SHOWN)


def test_names_of_bad_images_are_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path(f"photos/{EVIL}.png").write_text("no image")
    assert SHOWN in refused(capsys, ["train", "photos", "--out", "new"], 3)


def test_names_in_an_archive_of_arrays_are_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **{"\x1b[31m\u202e": pixels()[:, 0].astype(np.float32)})
    assert "\\x1b" in refused(capsys, ["train", "a.npz", "--out", "new"], 3)


@pytest.mark.filterwarnings("default")
def test_a_warning_of_a_library_is_one_printable_line(tmp_path, monkeypatch, capsys):
    import logging
    import warnings

    from alphabar.cli import main as module

    def crash(*given: object) -> None:
        warnings.warn(f"a {EVIL}", stacklevel=1)
        logging.getLogger("library").warning("b %s", EVIL)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alphabar.cli.equations.run", crash)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        assert module.main(["equations"]) == 0
    finally:
        root.handlers = handlers
    assert capsys.readouterr().err == f"warning: a {SHOWN}\nwarning: b {SHOWN}\n"


def test_a_crash_is_one_printable_line(tmp_path, monkeypatch, capsys):
    def crash(*given: object) -> None:
        raise RuntimeError(EVIL)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("alphabar.cli.equations.run", crash)
    assert main(["equations"]) == 1
    line = capsys.readouterr().err
    assert SHOWN in line and line[:-1].isprintable()


def test_a_run_that_is_set_aside(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "tiny.npz")
    arguments = ["train", "tiny.npz", "--out", EVIL, *SETTINGS, "--steps", "1"]
    said(capsys, arguments)
    assert f"{SHOWN}.old-1" in said(capsys, [*arguments, "--fresh"])
    shutil.rmtree(tmp_path / f"{EVIL}.old-1")
