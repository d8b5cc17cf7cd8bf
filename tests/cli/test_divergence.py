"""Numbers that are not finite: skipped and counted, one way back at half the rate, a named end. Never saved."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from alphabar.cli.main import main
from alphabar.training import trainer
from alphabar.training.trainer import Run
from alphabar.weights import checkpoint
from tiny import SETTINGS, npz, same

STEPS = 30
SCHEDULE = ["run.save_every=5", "run.preview_every=15", "optim.warmup_steps=2", "optim.rate=constant"]


@pytest.fixture
def train(tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of the training command in ``tmp_path/run``."""
    data = npz(tmp_path / "tiny.npz")

    def command(*more: str, out: str = "run") -> tuple[int, str, str]:
        capsys.readouterr()
        settings = [*SETTINGS, *SCHEDULE, *more]
        code = main(["train", str(data), "--out", str(tmp_path / out), "--steps", str(STEPS), *settings])
        found = capsys.readouterr()
        return code, found.out, found.err

    return command


def poison(monkeypatch, when: Callable[[Run], bool], how: str = "gradient") -> None:
    """Spoil the gradient or the loss of the steps for which ``when`` says so."""
    real = trainer._gradient

    def gradient(run: Run, *given):
        loss = real(run, *given)
        if not when(run):
            return loss
        next(run.denoiser.parameters()).grad[...] = math.inf if how == "gradient" else math.nan
        return math.nan if how == "loss" else loss

    monkeypatch.setattr(trainer, "_gradient", gradient)


def lines(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def status(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, all finite."""
    folder = run / f"step-{step:09d}"
    checkpoint.verify(folder)
    found = {}
    for name in ("ema", "net", "optimizer"):
        found |= {f"{name}.{k}": v for k, v in safetensors.torch.load_file(folder / f"{name}.safetensors").items()}
    assert all(torch.isfinite(value).all() for value in found.values())
    return found


def no_leftovers(run: Path) -> None:
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize("how", ["gradient", "loss"])
def test_single_steps_are_skipped_and_counted(train, tmp_path, monkeypatch, how):
    poison(monkeypatch, lambda run: run.step + 1 in (10, 11, 15, 30), how)
    code, out, err = train()
    assert code == 0 and err == ""
    assert out.count("step skipped") == 4 and "4 skipped, not finite" in out
    run = tmp_path / "run"
    assert [line["step"] for line in lines(run) if line.get("skipped")] == [10, 11, 15, 30]
    told = {"state": "finished", "step": STEPS, "steps": STEPS, "saved": STEPS, "skipped": 4, "exit_code": 0}
    assert status(run) == told
    weights(run)
    assert not (run / "diverged.json").exists()


def test_three_in_a_row_go_back_once_at_half_the_rate(train, tmp_path, monkeypatch):
    poison(monkeypatch, lambda run: run.lr_scale == 1 and 17 <= run.step + 1 <= 19)
    code, out, _ = train()
    assert code == 0 and "step 19: " in out and "went back to step-000000015 with half the rate" in out
    run = tmp_path / "run"
    found = lines(run)
    numbered = [line["step"] for line in found if "loss" in line]
    assert numbered == list(range(1, STEPS + 1)), "every step once, in order"
    assert {"step": 15, "went_back_from": 19, "lr_scale": 0.5} in found
    rates = {line["step"]: line["lr"] for line in found if "loss" in line}
    assert rates[16] == pytest.approx(rates[15] / 2) and rates[30] == pytest.approx(rates[15] / 2)
    told = json.loads((run / "diverged.json").read_text())
    assert (
        told["step"] == 19 and [s["step"] for s in told["steps"]] == [17, 18, 19] and "step-000000015" in told["action"]
    )
    for at in told["steps"]:
        assert len(at["times"]) == len(at["images"]) == 8
        assert all(1 <= t <= 8 for t in at["times"]) and all(0 <= i < 40 for i in at["images"])
    weights(run)
    no_leftovers(run)


def test_what_it_names_is_what_the_step_used(train, tmp_path, monkeypatch):
    used = {}
    real = trainer._backward

    def backward(run, some, share):
        used[run.step + 1] = (some.t.tolist(), some.x0.clone())
        return real(run, some, share)

    monkeypatch.setattr(trainer, "_backward", backward)
    poison(monkeypatch, lambda run: run.step + 1 >= 7)
    assert train("data.flip=false")[0] == 6
    with np.load(tmp_path / "tiny.npz") as data:
        source = torch.from_numpy(data["images"])
    for at in json.loads((tmp_path / "run" / "diverged.json").read_text())["steps"]:
        times, x0 = used[at["step"]]
        assert at["times"] == times
        assert torch.equal(trainer.to_model_range(source[at["images"]][:, None]), x0)


def test_a_second_divergence_is_the_end(train, tmp_path, monkeypatch):
    poison(monkeypatch, lambda run: run.step + 1 >= 17, "loss")
    code, out, err = train()
    assert code == 6 and err.count("\n") == 1
    assert err.startswith("error: step 19: loss is nan") and "3 steps in a row" in err
    assert "last good checkpoint step-000000015" in err and "diverged.json" in err
    run = tmp_path / "run"
    assert out.count("went back") == 1
    told = {"state": "diverged", "step": 19, "steps": STEPS, "saved": 15, "skipped": 3, "exit_code": 6}
    assert status(run) == told
    assert json.loads((run / "diverged.json").read_text())["action"] == "stopped; step-000000015 is intact"
    assert [step.name for step in checkpoint.steps(run)] == ["step-000000015", "step-000000010"]
    before = weights(run, 15)
    # the cause is gone: the same command goes on from there
    monkeypatch.undo()
    assert train()[0] == 0
    assert set(weights(run)) == set(before)


def test_before_the_first_checkpoint_it_starts_again(train, tmp_path, monkeypatch):
    poison(monkeypatch, lambda run: run.lr_scale == 1 and run.step + 1 >= 2)
    code, out, _ = train("optim.lr=0.008")
    assert code == 0 and "went back to the first step with half the rate" in out
    assert {"step": 0, "went_back_from": 4, "lr_scale": 0.5} in lines(tmp_path / "run")
    monkeypatch.undo()
    assert train("optim.lr=0.004", out="half")[0] == 0
    same(weights(tmp_path / "run"), weights(tmp_path / "half"))


@pytest.mark.parametrize("every", [1, 2])
def test_nothing_inside_a_streak_is_a_place_to_go_back_to(train, tmp_path, monkeypatch, every):
    poison(monkeypatch, lambda run: run.lr_scale == 1 and 17 <= run.step + 1 <= 19)
    code, out, _ = train(f"run.save_every={every}")
    assert code == 0 and "went back to step-000000016" in out
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == list(range(1, STEPS + 1))


class Killed(BaseException):
    """Stands for a process that is gone: nothing of ours catches it."""


@pytest.mark.parametrize("at", [18, 20, 24])
def test_killed_around_the_way_back_it_ends_the_same(train, tmp_path, monkeypatch, at):
    """The way back is a function of the run: after a kill it is taken again, to the last bit."""

    def spoil(run):
        return run.lr_scale == 1 and 17 <= run.step + 1 <= 19

    poison(monkeypatch, spoil)
    assert train(out="whole")[0] == 0
    real, calls = trainer._gradient, 0

    def killing(run, *given):
        nonlocal calls
        calls += 1
        if calls == at + 5:  # some of the steps of planning, then those of the run
            raise Killed
        return real(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr("alphabar.cli.train._seconds_per_step", lambda *given, **named: 0.01)
        patch.setattr(trainer, "_gradient", killing)
        with pytest.raises(Killed):
            train()
    assert train()[0] == 0
    same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    no_leftovers(tmp_path / "run")


def test_a_checkpoint_of_a_stop_inside_a_streak_is_passed_over(train, tmp_path, monkeypatch):
    poison(monkeypatch, lambda run: run.lr_scale == 1 and 17 <= run.step + 1 <= 19)
    assert train(out="whole")[0] == 0
    real = trainer._gradient

    def stopping(run, *given):
        if run.step + 1 == 18 and run.lr_scale == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(run, *given)

    with monkeypatch.context() as patch:
        patch.setattr("alphabar.cli.train._seconds_per_step", lambda *given, **named: 0.01)
        patch.setattr(trainer, "_gradient", stopping)
        assert train()[0] == 75
    run = tmp_path / "run"
    assert checkpoint.steps(run)[0].name == "step-000000018"
    code, out, _ = train()
    assert code == 0 and "went back to step-000000015" in out
    assert (run / "diverged-step-000000018-1").is_dir()
    same(weights(run), weights(tmp_path / "whole"))
    assert lines(run) == lines(tmp_path / "whole")


def test_a_held_out_loss_that_is_not_finite_goes_back_too(train, tmp_path, monkeypatch):
    real = trainer.held_out_loss
    monkeypatch.setattr(trainer, "held_out_loss", lambda run, n: math.nan if run.lr_scale == 1 else real(run, n))
    code, out, _ = train("data.held_out=8")
    assert code == 0 and "went back to step-000000010" in out
    weights(tmp_path / "run")
