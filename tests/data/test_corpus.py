"""Bad inputs, 1 to 55: what ``data check`` and ``train`` say of each, with which exit code, and that nothing else
happens."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from alphabar.cli import train
from alphabar.cli.main import main
from alphabar.data import open_source, scan
from data.corpus import FILES, PLACES, SIDE, Case, good
from data.pictures import write
from tiny import SETTINGS, files

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience: 0.01)
    return tmp_path


def one_line(capsys: Capture, words: str) -> str:
    """The single line on stderr, which holds the words and no control characters."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and lines[0].isprintable()
    assert words in lines[0]
    return lines[0]


@pytest.mark.parametrize("case", FILES, ids=str)
def test_a_file_is_checked(here: Path, capsys: Capture, case: Case) -> None:
    """As half of a set: refused by name, or taken with what was done said."""
    write(here / "set" / case.name, case.content())
    write(here / "set" / "good.png", good(0))
    assert main(["data", "check", str(here / "set"), *case.settings]) == case.code
    if case.code:
        assert f"{case.name} (" in one_line(capsys, case.words)
    else:
        assert case.words in capsys.readouterr().out


@pytest.mark.parametrize("case", [case for case in FILES if case.code], ids=str)
def test_a_bad_file_among_many_is_left_out_of_training(here: Path, capsys: Capture, case: Case) -> None:
    """And the others are what they are without it."""
    for n in range(24):
        write(here / "set" / f"{n:02}.png", good(n))
    alone = open_source(str(here / "set"), SIDE).fingerprint
    write(here / "set" / case.name, case.content())
    assert main(["train", str(here / "set"), "--dry-run", *SETTINGS, *case.settings]) == 0
    assert f"left out     {case.name}: {case.words}" in capsys.readouterr().out
    assert open_source(str(here / "set"), SIDE).fingerprint == alone
    assert not os.listdir(here / "work")


@pytest.mark.parametrize("case", PLACES, ids=str)
def test_a_place_is_checked(here: Path, capsys: Capture, case: Case) -> None:
    source = str(case.build(here))
    assert main(["data", "check", source]) == case.code
    if case.code:
        one_line(capsys, case.words)
    else:
        assert case.words in capsys.readouterr().out


@pytest.mark.parametrize("case", [case for case in PLACES if case.code], ids=str)
def test_training_refuses_a_bad_place(here: Path, capsys: Capture, case: Case) -> None:
    assert main(["train", str(case.build(here)), *SETTINGS]) == 3
    one_line(capsys, case.words)
    assert not os.listdir(here / "work")


def test_decoding_that_takes_too_long_is_given_up(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 30, by the processor's time: a busy machine gives up nothing that it would not give up when idle."""
    for n in range(3):
        write(here / "set" / f"{n}.png", good(n))
    real = scan.decode_all
    release = False

    def decode(data: bytes, *more: Any) -> Any:
        while data == good(1) and not release:
            sum(range(1000))
        return real(data, *more)

    monkeypatch.setattr(scan, "decode_all", decode)
    monkeypatch.setattr(scan, "SECONDS_PER_IMAGE", 0.3)
    try:
        assert main(["data", "check", str(here / "set")]) == 3
    finally:
        release = True
    one_line(capsys, "1.png (it takes more than 0 s to decode")


def test_waiting_is_no_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("this system does not tell the time of a thread")
    write(here / "set" / "a.png", good(0))
    real = scan.decode_all

    def decode(*given: Any) -> Any:
        time.sleep(0.5)
        return real(*given)

    monkeypatch.setattr(scan, "decode_all", decode)
    monkeypatch.setattr(scan, "SECONDS_PER_IMAGE", 0.3)
    assert len(open_source(str(here / "set"))) == 1


def test_a_file_without_permission_is_named(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases 34 and 35; the permissions are an error of the system here, because root has them all."""
    from alphabar.data.sources import folder

    for n in range(2):
        write(here / "set" / f"{n}.png", good(n))
    real = folder._Folder.open

    def refuse(self: Any, name: str) -> Any:
        if name == "1.png":
            raise PermissionError(13, "Permission denied")
        return real(self, name)

    monkeypatch.setattr(folder._Folder, "open", refuse)
    assert main(["data", "check", str(here / "set")]) == 3
    one_line(capsys, "1.png (Permission denied)")


def test_a_file_that_goes_and_comes_back_leaves_the_run_resumable(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases 49 and 50."""
    for n in range(4):
        write(here / "set" / f"{n}.png", good(n))
    command = ["train", str(here / "set"), "--out", str(here / "run"), *SETTINGS, "--steps"]
    assert main([*command, "1"]) == 0

    def saved() -> dict[str, bytes]:
        """Every file of the run but the note in its lock: that tells the minute of the last command."""
        return {name: data for name, data in files(here / "run").items() if name != ".lock"}

    before = saved()
    os.utime(here / "set" / "0.png")  # decoded again, with the same result
    real = scan.examine

    def examine(*given: Any) -> Any:
        (here / "set" / "2.png").unlink(missing_ok=True)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "examine", examine)
        capsys.readouterr()
        assert main([*command, "2"]) == 3
        one_line(capsys, "2.png was there when the files were listed and is gone")
    write(here / "set" / "2.png", good(7))
    assert main([*command, "2"]) == 3
    one_line(capsys, "1 changed (first: 2.png)")
    assert before.items() <= saved().items()
    write(here / "set" / "2.png", good(2))
    assert main([*command, "2"]) == 0
