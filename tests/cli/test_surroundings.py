"""Commands where something around them is not as usual: output, terminal, language, home folder, an earlier crash."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from alphabar.base.cache import cache_folder
from alphabar.base.errors import StorageError
from alphabar.cli.main import main
from alphabar.evaluation.curves import loss_curve
from refusal import refused
from tiny import SETTINGS, moved, trained_in

TRAIN = ["train", "tiny.npz", "--out", "run", *SETTINGS, "run.save_every=2", "run.preview_every=4"]
SAMPLE = ["sample", "run", "-n", "2", "--steps", "2", "--out", "out"]
CALL = "from alphabar.cli.main import main"
COMMAND = f"{CALL}\nimport sys\nsys.exit(main())"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A working directory with tiny.npz and a run of it."""
    return trained_in(tmp_path_factory.mktemp("surroundings"), [*TRAIN, "--steps", "4"])


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    root = moved(trained, tmp_path / "work")
    monkeypatch.chdir(root)
    return root


def call(
    *arguments: str, shell: str = "", code: str = COMMAND, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; ``shell`` redirects its output, None removes a variable."""
    changed = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    command = ["bash", "-c", f'set -o pipefail; "$0" "$@" {shell}', sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=changed, capture_output=True, text=True, errors="backslashreplace")


# --- output -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [("| head -1", 141, ""), (">&-", 0, ""), ("> /dev/full", 5, "standard output: no space left on device")],
)
def test_an_output_that_takes_no_more(here, shell, code, words):
    if "full" in shell and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    ran = call("inspect", "run", shell=shell)
    assert ran.returncode == code, ran.stderr
    assert ran.stderr == (f"error: {words}\n" if words else "")
    assert not (here / "alphabar-crash.log").exists()


def test_training_whose_output_is_closed_goes_on(here):
    assert call(*TRAIN, "--steps", "6", shell=">&- 2>&-").returncode == 0
    assert json.loads((here / "run" / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    "environment",
    [
        {
            "LANG": "C",
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONOPTIMIZE": "2",
            "HOME": None,
        },
        {"PYTHONIOENCODING": "latin-1", "TERM": "dumb", "COLUMNS": "1", "HOME": "/nonexistent"},
        {"LC_ALL": "C"},
    ],
    ids=["plain C and no home", "another encoding", "C"],
)
def test_any_language_and_environment(here, environment):
    ran = call(code=f"{CALL}\nimport sys\nsys.exit(main(['inspect', 'run']) or main({SAMPLE}))", **environment)
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    assert "schedule" in ran.stdout and len(list(Path("out").glob("*.png"))) == 3


def test_a_narrow_terminal(here):
    """On a terminal one column wide, training shows its bar and ends as usual."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 1, 1, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *TRAIN, "--steps", "5"],
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    error = process.communicate()[1]
    os.close(master)
    assert process.returncode == 0 and error == "", error
    assert shown and json.loads((here / "run" / "run.json").read_text())["step"] == 5


def test_no_home_folder_at_all(monkeypatch):
    def nobody(*given: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ALPHABAR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(StorageError, match="ALPHABAR_CACHE"):
        cache_folder()


# --- an earlier crash -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"", b'{"state": "run', bytes(80)])
def test_half_written_files_are_put_right_with_a_note(here, capsys, status):
    run = here / "run"
    (run / "run.json").write_bytes(status)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "lo')
    assert main([*TRAIN, "--steps", "6"]) == 0
    out = capsys.readouterr().out
    assert "note         metrics.jsonl ended in half a line" in out and "note         run.json was half-written" in out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    capsys.readouterr()
    assert main([*TRAIN, "--steps", "7"]) == 0
    assert "half" not in capsys.readouterr().out


def test_a_curve_leaves_out_broken_lines_and_steps_that_were_not_taken(tmp_path):
    whole = b'{"step": 1, "loss": 0.5}\n', b'{"step": 3, "loss": 0.4}\n', b'{"step": 3, "held_out_loss": 0.25}\n'
    skipped = b'{"step": 2, "skipped": true, "loss": "nan", "grad_norm": "inf", "lr": 0.1}\n'
    torn = whole[0], skipped, bytes(40), b"\n", *whole[1:], b'{"step": 4, "l'
    for name, lines in (("clean", whole), ("torn", torn)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_bytes(b"".join(lines))
    assert loss_curve(tmp_path / "torn") == loss_curve(tmp_path / "clean")


# --- links in a run folder from somebody else -------------------------------------------------------------------


def test_the_links_of_somebody_else_are_not_written_through(here, capsys):
    victim = here / "victim"
    victim.write_text("mine")
    for name in (".lock", "metrics.jsonl"):
        path = here / "run" / name
        kept = path.read_bytes()
        path.unlink()
        path.symlink_to(victim)
        assert main([*TRAIN, "--steps", "6"]) == 5 or not path.is_symlink()
        assert victim.read_text() == "mine"
        path.unlink()
        path.write_bytes(kept)


def test_samples_are_not_written_through_links(here, capsys):
    victim = here / "victim"
    victim.write_text("mine")
    command = [*SAMPLE, "--animate"]
    assert main(command) == 0
    for path in list((here / "out").iterdir()):
        if path.name != "manifest.json":
            path.unlink()
            path.symlink_to(victim)
    assert main(command) == 0
    assert victim.read_text() == "mine" and not any(path.is_symlink() for path in (here / "out").iterdir())


# --- requests that cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "run", "--seed", "-1"], 2, "seed"),
        (["evaluate", "run", "--seed", str(2**70)], 2, "seed"),
        (["figures", "run", "--seed", "-1"], 2, "seed"),
        (["figures", "run", "--seed", str(2**70)], 2, "seed"),
        (["classifier", "digits", "--seed", "-1"], 2, "seed"),
        (["classifier", "digits", "--seed", str(2**70)], 2, "seed"),
        (["classifier", "digits", "--epochs", "0"], 2, "epochs"),
        (["classifier", "digits", "--size", "0"], 2, "size"),
        (["demo", "--seed", "-1", "--out", "new"], 2, "seed"),
        (["demo", "--minutes", "-1", "--out", "new"], 2, "minutes"),
        (["demo", "--minutes", "nan", "--out", "new"], 2, "minutes"),
        (["demo", "--minutes", "inf", "--out", "new"], 2, "minutes"),
        (["figures", "run", "-n", "0"], 2, "at least 2"),
        (["figures", "run", "--steps", "9"], 2, "9"),
        (["figures", "run", "--between", "1,2,3"], 2, "--between"),
        (["figures", "run", "--between", "1,99999"], 2, "99999"),
        (["figures", "run", "--between", "a.txt,a.txt"], 3, "a.txt"),
        (["evaluate", "run", "-n", "99999999999999999999"], 2, "-n"),
        (["evaluate", "run", "--hops", "-1"], 2, "hops"),
        (["evaluate", "run", "--metrics", "fid", "--reference", "."], 3, "."),
        (["sample", "run", "--steps", str(2**70)], 2, "steps"),
        (["sample", "run", "--seeds", "9" * 30], 2, "--seeds"),
        (["train", "tiny.npz", "--out", "a.txt/b"], 5, "a.txt"),
        (["train", "tiny.npz", "--out", "new", "data.size=1000000"], 2, "data.size"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_requests_that_cannot_be(here, capsys, arguments, code, words):
    Path("a.txt").write_text("text")
    refused(capsys, arguments, code, words)
