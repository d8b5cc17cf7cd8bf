"""Checkpoints that earlier versions wrote load, sample as they did, and go on training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import alphabar as ab
from alphabar.base import storage
from alphabar.base.errors import CheckpointError, NewerFormat
from alphabar.base.version import __version__
from alphabar.cli import train
from alphabar.cli.main import main
from alphabar.weights import checkpoint
from tiny import reseal

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = sorted(path.name for path in FIXTURES.glob("format-*"))


@pytest.fixture
def run(request, tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / getattr(request, "param", FORMATS[-1]), tmp_path / "run"))


def test_the_present_format_is_among_them_and_none_is_large():
    assert f"format-{checkpoint.FORMAT}" in FORMATS
    for name in FORMATS:
        assert sum(p.stat().st_size for p in (FIXTURES / name).rglob("*") if p.is_file()) <= 300_000, name


@pytest.mark.parametrize("run", FORMATS, indirect=True)
def test_it_samples_as_it_did(run):
    model = ab.load(run)
    images = ab.generate(model, ab.samplers.Ancestral(), ab.Chain.full(model.schedule), range(4), y=torch.arange(4))
    recorded = np.load(run / "samples.npz")["images"].astype(int)
    # another version of torch rounds differently: a level or two of 256
    assert np.abs(images.numpy().astype(int) - recorded).max() <= 2
    assert recorded.std() > 10


@pytest.mark.parametrize("run", FORMATS, indirect=True)
def test_it_goes_on_training_as_it_did(run, monkeypatch):
    monkeypatch.setattr(train, "_seconds_per_step", lambda *given, **named: 0.01)
    assert main(["train", "digits", "--out", str(run), "--steps", "8"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recorded = [json.loads(line) for line in (run / "after.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    found = {line["step"]: line["loss"] for line in lines if "loss" in line}
    for line in recorded:
        if "loss" in line:
            assert found[line["step"]] == pytest.approx(line["loss"], rel=1e-4)


def newer(step: Path) -> None:
    """Make a checkpoint one of a later version, which seals its manifest as all do."""
    manifest = json.loads((step / "manifest.json").read_text()) | {"format": 2, "alphabar": "9.1.0"}
    (step / "manifest.json").write_text(json.dumps(manifest))
    reseal(step)


def test_a_newer_format_is_refused_with_both_versions(run, capsys):
    newer(run / "step-000000004")
    with pytest.raises(NewerFormat, match=rf"made by alphabar 9\.1\.0 .*this is alphabar {__version__}"):
        ab.load(run)
    assert main(["sample", str(run), "-n", "1"]) == 4
    assert capsys.readouterr().err.count("error: ") == 1


def test_a_newer_checkpoint_is_neither_passed_over_nor_set_aside(run, capsys):
    """Going on from the one before would throw the newer version's work away."""
    later = run / "step-000000008"
    shutil.copytree(run / "step-000000004", later)
    state = json.loads((later / "state.json").read_text()) | {"step": 8}
    (later / "state.json").write_text(json.dumps(state))
    newer(later)
    assert main(["train", "digits", "--out", str(run), "--steps", "12"]) == 4
    assert "9.1.0" in capsys.readouterr().err
    assert [p.name for p in checkpoint.steps(run)] == ["step-000000008", "step-000000004"]


def test_a_damaged_format_number_is_damage(run):
    manifest = run / "step-000000004" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format": 1', b'"format": 3'))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        checkpoint.verify(run / "step-000000004")
    assert not isinstance(caught.value, NewerFormat)


def test_a_manifest_without_a_seal_is_read(run):
    manifest = run / "step-000000004" / "manifest.json"
    old = {key: value for key, value in storage.read_json(manifest).items() if key != "sha256"}
    manifest.write_text(json.dumps(old))
    checkpoint.verify(run / "step-000000004")
