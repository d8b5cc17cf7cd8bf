"""Too little memory: what can take fewer images at once does, and gives the same; what cannot says what fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from alphabar.cli.main import main
from alphabar.model.cost import memory_per_image, memory_per_image_trained
from alphabar.model.nn import UNet
from alphabar.training.room import OF_WEIGHTS
from alphabar.weights import checkpoint
from tiny import SETTINGS, files, npz

FAILURE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes. Error 12"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    data = npz(root / "tiny.npz")
    assert main(["train", str(data), "--out", str(root / "run"), "--steps", "3", *SETTINGS, "data.held_out=12"]) == 0
    return root / "run"


def memory_for(fits: int, monkeypatch, *, training: bool | None = None) -> list[int]:
    """Let networks fail on more than ``fits`` images; the batch sizes that passed."""
    real, passed = UNet.forward, []

    def forward(self, x, *arguments, **keywords):
        if training in (None, self.training):
            if len(x) > fits:
                raise RuntimeError(FAILURE)
            passed.append(len(x))
        return real(self, x, *arguments, **keywords)

    monkeypatch.setattr(UNet, "forward", forward)
    return passed


def test_samples_are_made_fewer_at_a_time_and_are_the_same(run, tmp_path, monkeypatch, caplog):
    assert main(["sample", str(run), "-n", "20", "--animate", "--out", str(tmp_path / "whole")]) == 0
    passed = memory_for(6, monkeypatch)
    assert main(["sample", str(run), "-n", "20", "--out", str(tmp_path / "parts")]) == 0
    assert caplog.text.count("\n") == 1 and "20 images at once; going on with fewer" in caplog.text
    assert max(passed) <= 6
    whole, parts = files(tmp_path / "whole"), files(tmp_path / "parts")
    pictures = [name for name in whole if re.fullmatch(r"\d+\.png", name)]
    assert len(pictures) == 20 and all(whole[name] == parts[name] for name in pictures)


def test_an_evaluation_halves_what_does_not_fit(run, tmp_path, monkeypatch, capsys):
    asked = ["evaluate", str(run), "--metrics", "bpd,kid", "-n", "24", "--features", "pixels", "--json"]
    assert main(asked) == 0
    whole = json.loads(capsys.readouterr().out)
    memory_for(5, monkeypatch)
    monkeypatch.setattr("alphabar.evaluation.parts.Parts.has", lambda *given: False)  # nothing was kept
    assert main(asked) == 0
    parts = json.loads(capsys.readouterr().out)
    for name in ("bits_per_dim", "kid"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-5)


def test_a_preview_that_does_not_fit_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    data = npz(tmp_path / "tiny.npz")
    passed = memory_for(8, monkeypatch, training=False)
    code = main(["train", str(data), "--out", str(tmp_path / "run"), "--steps", "4", *SETTINGS, "data.held_out=12"])
    assert code == 0 and "samples: out of memory with 25 images at once" in caplog.text
    assert max(passed) <= 8 and list((tmp_path / "run" / "previews").iterdir())


def test_training_says_which_micro_batch_fits_and_auto_takes_it(tmp_path, monkeypatch, capsys):
    data = npz(tmp_path / "tiny.npz")
    command = ["train", str(data), "--steps", "4", *SETTINGS, "net.dropout_rate=0.0"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    memory_for(3, monkeypatch, training=True)
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "run")]) == 8
    err = capsys.readouterr().err
    assert (
        err == "error: out of memory at batch 8 (asked for 4.0 GB); --micro-batch 2 fits and gives the same updates\n"
    )
    assert main([*command, "--out", str(tmp_path / "run"), "--micro-batch", "auto"]) == 0
    assert "out of memory at batch 8 (asked for 4.0 GB): taking 2 images at once" in capsys.readouterr().out
    assert "micro_batch = 2" in (tmp_path / "run" / "config.toml").read_text()
    whole, parts = (weights(tmp_path / name) for name in ("whole", "run"))
    assert all((whole[name] - parts[name]).abs().max() < 1e-4 for name in whole)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(safetensors.torch.load_file(checkpoint.latest(run) / "net.safetensors"))


def test_memory_that_shrinks_during_a_run(tmp_path, monkeypatch, capsys):
    data = npz(tmp_path / "tiny.npz")
    command = ["train", str(data), "--out", str(tmp_path / "run"), "--steps", "8", *SETTINGS, "run.save_every=4"]
    real = checkpoint.write
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda *given: (real(*given), memory_for(4, patch, training=True)))
        assert main(command) == 8
        assert checkpoint.steps(tmp_path / "run")[0].name == "step-000000004"
        status = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (status["state"], status["exit_code"]) == ("failed", 8)
    with monkeypatch.context() as patch:
        memory_for(4, patch, training=True)
        capsys.readouterr()
        assert main([*command, "--micro-batch", "auto"]) == 0
    assert "4 images at once" in capsys.readouterr().out
    assert checkpoint.steps(tmp_path / "run")[0].name == "step-000000008"


@pytest.mark.parametrize("given", ["0", "-1", "x", "1.5", "9999999"])
def test_a_wrong_micro_batch(tmp_path, capsys, given):
    assert main(["train", "digits", "--out", str(tmp_path / "run"), "--micro-batch", given]) == 2
    assert "--micro-batch" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


LIMITED = """
import resource, sys
import alphabar.cli.train, torch
torch.set_num_threads(1)
from alphabar.cli.main import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {room} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_a_real_limit_of_the_system(tmp_path):
    """A process that may not have more memory: code 8 and a number; a search that ends under the same limit."""
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (64, 32, 32), np.uint8))
    command = ["train", str(tmp_path / "images.npz"), "--out", str(tmp_path / "run"), "--steps", "1"]
    command += [s for s in SETTINGS if s != "run.batch=8"] + ["run.batch=64", "net.base_channels=16", "data.held_out=0"]

    def limited(*more: str) -> subprocess.CompletedProcess[str]:
        # one heap that gives memory back, so that what is reserved is what is used
        heap = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        environment = {**os.environ, **heap, "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-c", LIMITED.format(room=120), *command, *more]
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=280, check=False)

    refused = limited()
    assert refused.returncode == 8, refused.stderr
    assert refused.stderr.startswith("error: out of memory at batch 64") and refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert re.search(r"--micro-batch \d+ fits", refused.stderr)
    found = limited("--micro-batch", "auto")
    assert found.returncode == 0, found.stderr
    assert re.search(r"micro_batch = \d+", (tmp_path / "run" / "config.toml").read_text())


def test_samples_leave_half_of_the_free_memory_free(run, tmp_path, monkeypatch, caplog):
    """A system that hands out more than it has kills the process: nothing is left to be caught."""
    denoiser = checkpoint.load(run)
    each = memory_per_image(denoiser.net.config, *denoiser.shape[1:])
    passed = memory_for(10**6, monkeypatch)
    for free, size in ((10**15, 20), (2 * 8 * each, 8), (2 * 8 * each - 1, 4), (0, 1)):
        monkeypatch.setattr("alphabar.model.cost.available_memory", lambda device, free=free: free)
        passed.clear()
        caplog.clear()
        out = tmp_path / str(free)
        assert main(["sample", str(run), "-n", "20", "--steps", "2", "--animate", "--out", str(out)]) == 0
        assert max(passed) == size
        said = f"samples: free memory is for {size} of 20 images at once"
        assert [record.message for record in caplog.records] == ([] if size == 20 else [said])
    whole, *others = (files(tmp_path / str(free)) for free in (10**15, 2 * 8 * each, 0))
    assert len([name for name in whole if re.fullmatch(r"\d+\.png", name)]) == 20
    for other in others:  # the animation, too, which is of several batches now
        assert all(whole[name] == other[name] for name in whole if name != "manifest.json")


def test_a_held_out_loss_and_the_doctor_leave_half_of_it_free(run, tmp_path, monkeypatch, capsys):
    assert main(["doctor", str(run), "--json"]) in (0, 1)
    whole = json.loads(capsys.readouterr().out)
    passed = memory_for(10**6, monkeypatch, training=False)
    monkeypatch.setattr("alphabar.model.cost.available_memory", lambda device: 0)
    assert main(["doctor", str(run), "--json"]) in (0, 1)
    parts = json.loads(capsys.readouterr().out)
    assert set(passed) == {1} and list(parts) == list(whole)
    passed.clear()
    data = npz(tmp_path / "tiny.npz")
    assert (
        main(["train", str(data), "--out", str(tmp_path / "run"), "--steps", "2", *SETTINGS, "data.held_out=12"]) == 0
    )
    assert set(passed) == {1}
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("held_out_loss" in line for line in losses)


def test_training_that_the_system_would_kill_is_refused_before_its_first_step(run, tmp_path, monkeypatch, capsys):
    command = ["train", str(npz(tmp_path / "tiny.npz")), "--steps", "2", *SETTINGS, "--out", str(tmp_path / "run")]
    net = checkpoint.load(run).net
    each = memory_per_image_trained(net.config, 8, 8, checkpointing=False)
    monkeypatch.setattr("alphabar.training.room.BESIDE", 50)  # or it would be nearly all
    always = 50 + OF_WEIGHTS * 4 * sum(p.numel() for p in net.parameters())
    passed = memory_for(10**6, monkeypatch, training=True)

    def free(size: float) -> None:
        monkeypatch.setattr("alphabar.training.room.available_memory", lambda device: int(size))

    free(always + 8 * each - 1)
    assert main(command) == 8
    *_, error = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"error: too little memory for batch 8: a step takes about [\d.e-]+ GB, [\d.e-]+ GB are free; "
        r"--micro-batch [124] fits and gives the same updates",
        error,
    )
    free(always + each - 1)
    assert main(command) == 8
    assert capsys.readouterr().err.endswith("use run.activation_checkpointing=true, or a smaller network or image\n")
    assert not passed and not (tmp_path / "run").exists()

    free(2 * (always + 2 * each))
    assert main([*command, "--micro-batch", "auto"]) == 0
    assert set(passed) == {2} and "taking 2 images at once" in capsys.readouterr().out
    assert "micro_batch = 2" in (tmp_path / "run" / "config.toml").read_text()
    free(always + 8 * each)
    passed.clear()
    assert main([*command, "--fresh"]) == 0
    assert set(passed) == {8}
