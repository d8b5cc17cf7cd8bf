"""``alphabar doctor`` on real runs of seconds: planted causes, a healthy folder, wrong input, what it leaves behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from alphabar.cli.main import main
from alphabar.weights import checkpoint
from tiny import SETTINGS, files, npz, pixels, reseal

# twenty steps: fresh samples are cheap, and sigma^2 = beta on five of them leaves noise
TRAIN = [*(word for word in SETTINGS if not word.startswith("schedule.T")), "schedule.T=20"]
SHORT = [*TRAIN, "--steps", "4", "run.save_every=2", "run.preview_every=2"]


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["doctor", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor")
    npz(root / "tiny.npz")
    assert (
        main(["train", str(root / "tiny.npz"), "--out", str(root / "run"), *SHORT, "denoiser.variance=fixed_large"])
        == 0
    )
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def test_a_person_reads_one_screen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    capsys.readouterr()
    assert main(["doctor", str(run)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == "" and len(lines) < 24
    assert lines[0].startswith("looking      ")
    said = {line[:12].strip(): line[13:] for line in lines}
    assert said["run"].endswith("step 4 of 4 (finished)")
    assert said["verdict"] and "fresh samples" in said["looked at"]
    assert {name: data for name, data in files(run).items() if name in before} == before
    assert files(run).keys() == before.keys()


def test_images_of_0_to_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "dark.npz", images=(pixels()[:, 0] > 120).astype(np.uint8))
    assert main(["train", str(tmp_path / "dark.npz"), "--out", str(tmp_path / "run"), *SHORT]) == 0
    found = asked(capsys, str(tmp_path / "run"))
    assert found["verdict"] == "data-range"
    assert found["findings"][0]["evidence"][0] == "pixel values: 0, 1"


def test_an_average_that_never_warmed_up(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--steps", "60", "run.preview_every=60", "run.save_every=60", "optim.warmup_steps=1", "optim.lr=0.02"]
    slow = ["ema.warmup=false", "ema.halflife_images=100000"]
    assert main(["train", str(trained / "tiny.npz"), "--out", str(tmp_path / "run"), *TRAIN, *lengths, *slow]) == 0
    found = asked(capsys, str(tmp_path / "run"))
    assert found["verdict"] == "ema-initial"
    # 0.5^(60·8/100000)
    assert "100 % of the averaged weights" in found["findings"][0]["evidence"][0]
    assert "ema.warmup=true" in found["findings"][0]["advice"]


def test_steps_that_were_skipped_moved_no_average(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fast = ["ema.warmup=false", "ema.halflife_images=8", "run.batch=8"]
    assert main(["train", str(trained / "tiny.npz"), "--out", str(run), *SHORT, *fast]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["skipped"] = "loss" in line and line["step"] in (2, 3)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = asked(capsys, str(run))
    # each of the two updates halves the share; four would leave 6 %, of which nothing is said
    (initial,) = (one for one in found["findings"] if one["cause"] == "ema-initial")
    assert "25 % of the averaged weights are still initial ones" in initial["evidence"][0]


def test_noise_that_the_sampler_leaves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a step of the run, which stands for the run."""
    assert main(["sample", str(run), "-n", "16", "--steps", "5", "denoiser.variance=fixed_large"]) == 0
    found = asked(capsys, str(checkpoint.steps(run)[0]))
    assert found["run"] == str(run)
    causes = [finding["cause"] for finding in found["findings"]]
    assert "residual-noise" in causes and any("sample folder" in seen for seen in found["seen"])


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN or infinity in 1 of"), (0.0, "zero throughout")])
def test_weights_that_were_overwritten(run: Path, capsys: pytest.CaptureFixture[str], value: float, words: str) -> None:
    for folder in checkpoint.steps(run):
        tensors = safetensors.torch.load_file(folder / "ema.safetensors")
        tensors["final.2.weight"] = torch.full_like(tensors["final.2.weight"], value)
        (folder / "ema.safetensors").write_bytes(safetensors.torch.save(tensors))
        reseal(folder)
    found = asked(capsys, str(run))
    assert found["verdict"] == "bad-weights" and words in found["findings"][0]["evidence"][0]


def test_inverted_images_against_the_right_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "inverted.npz", images=255 - pixels()[:, 0] // 2)
    np.savez(tmp_path / "right.npz", images=pixels()[:, 0] // 2)
    assert main(["train", str(tmp_path / "inverted.npz"), "--out", str(tmp_path / "run"), *SHORT]) == 0
    found = asked(capsys, str(tmp_path / "run"), "--data", str(tmp_path / "right.npz"))
    assert found["verdict"] == "data-range" and "inverted" in found["findings"][0]["says"]


def test_a_run_without_images_or_checkpoints_is_still_looked_at(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace("tiny.npz", "gone.npz"))
    for folder in checkpoint.steps(run):
        shutil.rmtree(folder)
    (run / "run.json").write_text('{"state": "diverged", "step": 3, "steps": 4, "exit_code": 6}')
    found = asked(capsys, str(run))
    assert found["verdict"] == "rate-too-high"
    reasons = " ".join(found["unseen"])
    assert "training images: " in reasons and "weights: " in reasons and "gone.npz" in reasons


def test_a_run_whose_checkpoints_are_all_damaged_is_sick(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in checkpoint.steps(run):
        (folder / "net.safetensors").write_bytes(b"x")
    found = asked(capsys, str(run))
    assert found["verdict"] == "bad-weights" and found["findings"][0]["says"] == "no checkpoint is intact"
    assert "none of its 2 checkpoints is intact" in found["findings"][0]["evidence"][0]
    assert "--fresh" in found["findings"][0]["advice"]


def test_a_run_without_checkpoints_is_not_called_healthy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in checkpoint.steps(run):
        shutil.rmtree(folder)
    assert asked(capsys, str(run))["verdict"] == "unknown"
    assert main(["doctor", str(run)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict"))
    assert line == "verdict      unknown: no checkpoint to look at"


def test_a_checkpoint_of_a_newer_version_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in checkpoint.steps(run):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99, "alphabar": "9.9"}))
        reseal(folder)
    assert main(["doctor", str(run)]) == 4
    assert "9.9" in capsys.readouterr().err


def test_a_saved_model_stands_for_itself(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(checkpoint.load(run), tmp_path / "model")
    found = asked(capsys, str(tmp_path / "model"))
    assert any(reason.startswith("training images: ") for reason in found["unseen"])
    assert "weights" in found["seen"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 4, "nowhere: no such folder; give a run folder"),
        (["file.txt"], 4, "is a file"),
        (["empty"], 4, "is no run of alphabar"),
        (["RUN", "--data", "nowhere.npz"], 3, "nowhere.npz"),
    ],
)
def test_wrong_input_is_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    capsys.readouterr()
    assert main(["doctor", *(str(run) if word == "RUN" else word for word in arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1 and words in captured.err


def test_training_prints_a_verdict_at_each_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = npz(tmp_path / "tiny.npz")
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *SHORT]) == 0
    verdicts = [line for line in capsys.readouterr().out.splitlines() if ": verdict: " in line]
    assert [line.partition(":")[0] for line in verdicts] == ["step 2", "step 4"]
