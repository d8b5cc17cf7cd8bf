"""Every bad checkpoint at every door: exit 4, one line that names what it is, nothing changed, nothing executed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import alphabar as ab
from alphabar.base.errors import CheckpointError
from alphabar.cli.main import main
from alphabar.evaluation.features import open_features
from alphabar.weights import checkpoint
from alphabar.weights.foreign import read_state
from refusal import refused
from tiny import SETTINGS, files, moved, trained_in
from weights.corpus import DAMAGED, FOLDERS, FOREIGN, RESUMED, STATE, WRONG, Mischief

TRAIN = ["train", "tiny.npz", "--out", "run", *SETTINGS, "run.save_every=2", "run.preview_every=4"]
NETWORK = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with tiny.npz and a finished run."""
    return trained_in(tmp_path_factory.mktemp("corpus"), [*TRAIN, "--steps", "4"])


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A working directory with tiny.npz and a finished run of it."""
    root = moved(trained, tmp_path / "work")
    monkeypatch.chdir(root)
    # the time that a step takes decides nothing here
    monkeypatch.setattr("alphabar.cli.train._plan", lambda tables, *given: (0.01, tables))
    return root / "run"


def break_all(run: Path, change) -> None:
    for step in checkpoint.steps(run):
        change(step)


def refused_by_load(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ab.load(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700 and all(word in message for word in words), message


def refused_by_commands(capsys, model: str, words: list[str]) -> None:
    for command in ("sample", "evaluate", "inspect"):
        refused(capsys, [command, model], 4, *words)


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_every_command(run, capsys, name):
    change, words = DAMAGED[name]
    break_all(run, change)
    refused_by_commands(capsys, "run/step-000000004", words)
    refused_by_load(run / "step-000000004", *words)
    # each step is reported and passed over, and none is left; what a newer alphabar made is not passed over
    before = sorted(p.name for p in run.iterdir())
    assert main([*TRAIN, "--steps", "6"]) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert ("no checkpoint is intact" in error and "--fresh" in error) or "made by alphabar" in error
    assert sorted(p.name for p in run.iterdir()) == before


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused_by_every_command(run, capsys, name):
    change, words = WRONG[name]
    break_all(run, change)
    refused_by_commands(capsys, "run", words)
    refused_by_load(run, *words)
    assert not (run.parent / "marker").exists()


@pytest.mark.parametrize("name", ["NaN", "shape of another network", "tensor added", "overlap", "pickle for weights"])
def test_weights_that_make_no_sense_are_not_trained_on(run, capsys, name):
    change, words = WRONG[name]
    break_all(run, change)
    refused(capsys, [*TRAIN, "--steps", "6"], 4, *(word for word in words if not word.endswith(".safetensors")))
    assert not (run.parent / "marker").exists()


@pytest.mark.parametrize("name", RESUMED)
def test_a_state_that_makes_no_sense_is_not_continued(run, capsys, name):
    change, words = RESUMED[name]
    change(run / "step-000000004")
    if name in STATE:
        refused(capsys, ["inspect", "run/step-000000004"], 4, *words)
    shutil.rmtree(run / "step-000000002")
    capsys.readouterr()
    before = files(run)
    assert main([*TRAIN, "--steps", "6"]) == 4
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ") and len(said) <= 2 and all(line.isprintable() for line in said)
    # what verification finds is a warning, as with damage, and no older checkpoint is left
    assert all(word in said[-1] for word in (["no checkpoint is intact"] if name in STATE else words)), said
    assert {**files(run), ".lock": b""} == {**before, ".lock": b""}
    assert [p.name for p in checkpoint.steps(run)] == ["step-000000004"]


# --- files and folders of other programs ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_named_and_not_executed(run, capsys, name):
    make, words, as_weights = FOREIGN[name]
    marker = run.parent / "marker"
    make(Path("model.pt"), marker)
    for command in ("sample", "evaluate", "inspect"):
        refused(capsys, [command, "model.pt"], 4, "model.pt", words)
    refused_by_load(Path("model.pt"), words)
    # the same bytes as weights of a feature network
    assert as_weights in refused_features("inception:model.pt")
    Path("net.py").write_text(NETWORK)
    Path("model.pt").rename("model.safetensors")
    assert "model.safetensors: " in refused_features("net.py:Net@model.safetensors")
    assert not marker.exists()


def refused_features(spec: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_features(spec)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700
    return message


def test_the_mischief_of_the_corpus_is_real(tmp_path):
    marker = tmp_path / "marker"
    FOREIGN["code"][0](tmp_path / "model.pt", marker)
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert marker.exists()
    assert (tmp_path / "model.pt").stat().st_size < 3000 and Mischief(marker).__reduce__()[0] is os.system


@pytest.mark.parametrize("name", FOLDERS)
def test_a_foreign_folder_is_named_and_not_executed(run, capsys, name):
    make, words = FOLDERS[name]
    Path("model").mkdir()
    make(Path("model"), run.parent / "marker")
    for command in ("sample", "evaluate", "inspect"):
        refused(capsys, [command, "model"], 4, "model", words)
    refused_by_load(Path("model"), words)
    assert not (run.parent / "marker").exists()


def test_a_pipe_and_a_device_are_named_and_not_read(run, capsys):
    os.mkfifo("pipe.pt")
    for path in ("pipe.pt", "/dev/zero"):
        refused(capsys, ["inspect", path], 4, path, "pipe or device")


@pytest.mark.parametrize("weights", ["inception:w.safetensors", "net.py:Net@w.safetensors"])
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"layer.bias": torch.zeros(2)}, ["tensors missing"]),
        ({"layer.weight": torch.zeros(3, 2), "layer.bias": torch.zeros(2)}, ["missing", "[3, 2]"]),
        ({"layer.weight": torch.zeros(2, 2), "layer.bias": torch.tensor([1, torch.nan])}, ["missing", "non-finite"]),
        ({"z\x1b[31m": torch.zeros(2, 2)}, ["missing", r"z\x1b[31m"]),
    ],
    ids=["missing", "shape", "NaN", "name"],
)
def test_feature_weights_that_do_not_fit(run, capsys, weights, tensors, words):
    safetensors.torch.save_file(tensors, "w.safetensors")
    Path("net.py").write_text(NETWORK)
    error = refused(capsys, ["evaluate", "run", "--metrics", "fid", "--features", weights], 4, "w.safetensors")
    assert any(word in error for word in words), error


@pytest.mark.parametrize("name", ["more numbers than bytes", "record too short", "compressed zeros"])
def test_a_bomb_is_refused_before_memory_is_taken(tmp_path, name):
    resource = pytest.importorskip("resource")
    path = tmp_path / "bomb.pt"
    FOREIGN[name][0](path, tmp_path / "marker")
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        read_state(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


def test_a_description_is_refused_before_memory_is_taken(run):
    resource = pytest.importorskip("resource")
    WRONG["width without end"][0](run / "step-000000004")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError):
        ab.load(run / "step-000000004")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # kB


@pytest.mark.parametrize("spec", ["classifier:../../secret", "classifier:/etc", "classifier:", "classifier:a\x1b[31m"])
def test_the_name_of_a_classifier_leads_nowhere_else(spec):
    with pytest.raises(ab.AlphabarError) as caught:
        open_features(spec)
    assert "is no name of a classifier" in str(caught.value) and str(caught.value).isprintable()
