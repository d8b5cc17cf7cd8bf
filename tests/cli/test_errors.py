"""The likeliest mistakes: an exit code, one line on stderr, and nothing written or lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from alphabar.base import storage
from alphabar.base.storage import Lock
from alphabar.cli.main import main
from alphabar.weights import checkpoint
from refusal import refused, snapshot
from tiny import SETTINGS, files, moved, npz, pixels, reseal, trained_in

RUN = [*SETTINGS, "--steps", "4", "run.save_every=2", "run.preview_every=4"]


def train(out: Path, *more: str, data: str = "tiny.npz") -> list[str]:
    given = [word for word in RUN if not any(m.split("=")[0] == word.split("=")[0] for m in more)]
    if "--steps" not in given:
        given.remove("4")
    return ["train", data, "--out", str(out), *given, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with tiny.npz and a finished run."""
    return trained_in(tmp_path_factory.mktemp("errors"), train(Path("run")))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory with tiny.npz."""
    npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A working directory with tiny.npz and a finished run of it, whose recorded source is this tiny.npz."""
    root = moved(trained, tmp_path / "work")
    monkeypatch.chdir(root)
    return root / "run"


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["optim.lrr=3"], ["optim.lrr", "unknown", "did you mean 'lr'"]),
        (["optm.lr=3"], ["optm", "did you mean 'optim'"]),
        (["denoiser.clipp=1"], ["denoiser.clipp", "did you mean 'clip'"]),
        (['optim.lr="2e-4"'], ["optim.lr", "number", "2e-4"]),
        (["optim.lr=fast"], ["optim.lr", "number", "fast"]),
        (["optim.lr=nan"], ["optim.lr", "NaN"]),
        (["optim.lr=-inf"], ["optim.lr"]),
        (["optim.lr=-1"], ["optim.lr", "greater than 0", "-1"]),
        (["optim.lr=none"], ["optim.lr"]),
        (["--steps", "0"], ["run.steps", "1", "0"]),
        (["--steps", "-5"], ["run.steps", "-5"]),
        (["--steps", "1.5"], ["--steps", "integer"]),
        (["schedule.T=1e9"], ["schedule.T", "integer"]),
        (["schedule.T=1000000000"], ["schedule.T", "100000"]),
        (["schedule.T=0"], ["schedule.T", "1"]),
        (["schedule.kind=linaer"], ["schedule.kind", "linaer", "did you mean 'linear'"]),
        (["schedule.kind=linear", "schedule.beta_T=1.5"], ["schedule.beta_T", "less than 1"]),
        (["schedule.beta_T=0.02"], ["schedule.beta_T", "cosine has no such setting", "schedule.kind=linear or"]),
        (["schedule=3"], ["schedule", "3"]),
        (["run.batch=3.5"], ["run.batch", "integer", "3.5"]),
        (["run.batch=0"], ["run.batch", "0"]),
        (["run.batch"], ["run.batch", "section.key=value"]),
        (["a.b.c=1"], ["a.b.c=1", "section.key=value"]),
        (["=1"], ["section.key=value"]),
        (["seed=1.5"], ["seed", "integer", "1.5"]),
        (["seed.x=1"], ["seed"]),
        (["--seed", str(2**70)], ["seed", str(2**70), "2^63"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--preset", "cifar"], ["preset", "cifar10", "did you mean"]),
        (["--config", "missing.toml"], ["missing.toml"]),
        (["--config", "."], ["directory"]),
        (["--minutes", "0"], ["--minutes", "0"]),
        (["--minutes", "nan"], ["--minutes", "nan"]),
        (["--bogus"], ["--bogus"]),
        (
            ["net.base_channels_multiples=[1,1,1,1,1]", "net.apply_attention=[false,false,false,false,false]"],
            ["8x8", "divisible by 16"],
        ),
        (["net.base_channels=7"], ["net.base_channels", "even"]),
        (["net.norm_groups=3"], ["norm_groups", "divisible"]),
        (["net.input_channels=3", "net.output_channels=3"], ["net.input_channels", "3", "1"]),
        (["net.num_classes=5"], ["num_classes", "5", "0"]),
        (["net.total_time_steps=4"], ["total_time_steps", "4", "8"]),
        (["denoiser.variance=learned"], ["objective", "hybrid"]),
        (["denoiser.variance=fixed_smal"], ["denoiser.variance", "did you mean 'fixed_small'"]),
        (["denoiser.prediction=3"], ["denoiser.prediction", "3", "eps"]),
        (["data.held_out=40"], ["held_out", "40"]),
        (["data.size=0"], ["data.size"]),
        (["data.size=big"], ["data.size", "integer"]),
        # a whole section in the place of its keys
        (["run=3"], ["run", "section"]),
        (["data=3"], ["data", "section"]),
        (["optim=fast"], ["optim", "section"]),
        (["denoiser=3"], ["denoiser", "section"]),
        (["net=3"], ["net", "section"]),
        (["run=[1]"], ["run", "section"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings_that_cannot_be(here, capsys, setting, words):
    refused(capsys, ["train", "tiny.npz", "--out", "new", *SETTINGS, *setting], 2, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.toml", "seed = 0\nseed = 1\n", ["x.toml", "TOML", "line 2"]),
        ("x.toml", "[run]\nbatch = 4\nsteps 5\n", ["x.toml", "line 3"]),
        ("x.toml", "\xff\xfe", ["x.toml", "TOML"]),
        ("x.toml", "[run]\nbatch = 3.5\n", ["run.batch", "3.5"]),
        ("x.toml", '[optim]\nlr = "2e-4"\n', ["optim.lr", "2e-4"]),
        ("x.toml", "[optim]\nlrr = 1\n", ["optim.lrr", "did you mean 'lr'"]),
        ("x.toml", "run = 3\n", ["run", "section"]),
        ("x.toml", "data = 3\n", ["data", "section"]),
        ("x.toml", "[[run]]\nbatch = 4\n", ["run"]),
        ("x.toml", "x = " + "[" * 20_000, ["x.toml", "TOML"]),
        ("x.toml", "#" * 1_000_001, ["x.toml", "1000000"]),
        ("x.yaml", "run:\n  batch: 4\n", ["x.yaml", "TOML expected"]),
        ("x.yml", "run:\n  batch: 4\n", ["x.yml", "TOML expected"]),
    ],
    ids=range(13),
)
def test_config_files_that_cannot_be(here, capsys, name, content, words):
    (here / name).write_bytes(content.encode("latin-1"))
    refused(capsys, ["train", "tiny.npz", "--out", "new", "--config", name], 2, *words)


def test_options_that_exclude_each_other(here, capsys):
    refused(capsys, ["train", "tiny.npz", "--out", "new", "--steps", "2", "--minutes", "1"], 2, "--steps", "--minutes")
    (here / "x.toml").write_text("seed = 1\n")
    both = ["--config", "x.toml", "--preset", "review"]
    refused(capsys, ["train", "tiny.npz", "--out", "new", *both], 2, "--preset", "--config")


@pytest.mark.parametrize("arguments", [["train"], ["bogus"], ["sample"], ["--bogus"]], ids=lambda a: a[0])
def test_commands_that_are_none(here, capsys, arguments):
    refused(capsys, arguments, 2)


# --- images -----------------------------------------------------------------------------------------------------


def test_sources_that_are_none(here, capsys):
    (here / "empty").mkdir()
    (here / "mixed").mkdir()
    (here / "mixed" / "a.png").write_text("not an image at all")
    (here / "note.txt").write_text("hello")
    np.savez(here / "float.npz", images=pixels().astype(np.float32))
    np.savez(here / "none.npz", images=pixels()[:0])
    (here / "torn.npz").write_bytes((here / "tiny.npz").read_bytes()[:700])
    refused(capsys, train(here / "new", data="nowhere"), 3, "nowhere", "no such")
    refused(capsys, train(here / "new", data="empty"), 3, "empty", "no images")
    refused(capsys, train(here / "new", data="mixed"), 3, "a.png", "not an image")
    refused(capsys, train(here / "new", data="note.txt"), 3, "note.txt")
    refused(capsys, train(here / "new", data="float.npz"), 3, "float.npz", "uint8")
    refused(capsys, train(here / "new", data="torn.npz"), 3, "torn.npz")
    refused(capsys, train(here / "new", data="digitz"), 3, "did you mean 'digits'")
    found = main(train(here / "new", data="none.npz"))
    err = capsys.readouterr().err
    assert found in (2, 3) and len(err.splitlines()) == 1 and err.startswith("error: ") and not (here / "new").exists()


# --- where to write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["tiny.npz", "tiny.npz/below", "tiny.npz/far/below"])
def test_output_where_a_file_is(here, capsys, out):
    before = snapshot(here)
    assert main(train(Path(out))) in (2, 5)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and "tiny.npz" in err
    assert snapshot(here) == before


def test_output_whose_parents_are_missing_is_made(here):
    assert main(train(Path("a/b/run"))) == 0
    assert checkpoint.latest(here / "a/b/run").name == "step-000000004"


def test_a_full_disk_while_training(run, capsys, monkeypatch):
    before = files(run)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_bytes", full)
    capsys.readouterr()
    assert main(train(run, "--steps", "6")) == 5
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "no space left" in err
    after = files(run)
    for name, data in before.items():
        assert name == ".lock" or after[name] == data, name


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_trained_again(run, capsys):
    before = snapshot(run)
    assert main(train(run)) == 0
    said = capsys.readouterr()
    assert "finished" in said.out and said.err == "" and snapshot(run) == before


def test_a_process_that_died_before_it_let_go_leaves_no_more_than_is_kept(run, capsys):
    """The last save is whole, old checkpoints are still there: the next call removes them."""
    last = max(run.glob("step-*"))
    for step in (1, 2):
        shutil.copytree(last, run / f"step-{step:09d}", dirs_exist_ok=True)
    assert main(train(run)) == 0
    assert last.exists() and len(list(run.glob("step-*"))) == 2


def test_more_steps_continue_a_finished_run(run, capsys):
    first = safetensors.torch.load_file(run / "step-000000004" / "net.safetensors")
    assert main(train(run, "--steps", "6")) == 0
    assert "resuming" in capsys.readouterr().out
    assert [p.name for p in checkpoint.steps(run)] == ["step-000000006", "step-000000004"]
    kept = safetensors.torch.load_file(run / "step-000000004" / "net.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)
    numbers = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "lr" in line]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_fewer_steps_change_nothing(run, capsys):
    before = files(run / "step-000000004")
    assert main(train(run, "--steps", "3")) in (0, 2)
    assert files(run / "step-000000004") == before
    assert [p.name for p in checkpoint.steps(run)] == ["step-000000004", "step-000000002"]


def test_fresh_sets_the_old_run_aside_and_loses_nothing(run, capsys):
    before = {name: data for name, data in files(run).items() if name != ".lock"}
    for number in (1, 2):
        assert main([*train(run), "--fresh"]) == 0
        assert f"run.old-{number}" in capsys.readouterr().out
        assert checkpoint.latest(run).name == "step-000000004"
    old = files(run.with_name("run.old-1"))
    assert all(old[name] == data for name, data in before.items())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (["optim.lr=1e-3"], ["optim.lr", "--fresh"]),
        (["schedule.T=9"], ["schedule.T = 8", "9"]),
        (["run.batch=16"], ["run.batch = 8", "16"]),
        (["--seed", "5"], ["seed", "5"]),
        (["net.dropout_rate=0.1"], ["net.dropout_rate"]),
        (["optim.lrr=1"], ["optim.lrr"]),
        (["run.keep=1"], ["run.keep"]),
    ],
    ids=lambda v: v[0],
)
def test_other_settings_for_a_run_are_refused(run, capsys, setting, words):
    refused(capsys, train(run, *setting), 2, *words)


def test_other_images_for_a_run_are_refused(run, capsys):
    changed = pixels()[:, 0]
    changed[5, 3, 3] ^= 1
    np.savez("tiny.npz", images=changed)
    refused(capsys, train(run, "--steps", "6"), 3, "1 changed (first: 5)", "--accept-new-data", "--fresh")
    assert main([*train(run, "--steps", "6"), "--accept-new-data"]) == 0
    assert main(train(run, "--steps", "7")) == 0, "they are the run's images now"


def test_another_source_for_a_run_is_refused(run, capsys):
    npz(Path("other.npz"))
    refused(capsys, train(run, data="other.npz"), 2, "tiny.npz", "other.npz", "--fresh")


def test_a_run_in_use_is_left_alone(run, capsys):
    with Lock(run):
        refused(capsys, train(run, "--steps", "6"), 7, "in use", str(os.getpid()))
        refused(capsys, [*train(run), "--fresh"], 7, "in use")
    hold = "import sys, time; from pathlib import Path; from alphabar.base.storage import Lock; "
    hold += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline()
        refused(capsys, train(run, "--steps", "6"), 7, "in use", str(holder.pid))
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert main(train(run, "--steps", "5")) == 0


def test_a_start_removes_what_training_left_and_nothing_that_another_command_writes(run):
    """Who evaluates or draws writes below a run without its lock, also while training starts there."""
    own = [
        run / ".tmp-step-000000009-1" / "ema.safetensors",
        run / ".tmp-run.json-1",
        run / "previews" / ".tmp-a.png-1",
    ]
    others = [run / "evaluation" / "parts" / "x" / ".tmp-a.part-1", run / "figures" / ".tmp-index.html-1"]
    for path in own + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(train(run, "--steps", "5")) == 0
    assert sorted(run.rglob(f"{storage.TEMPORARY}*")) == sorted(others)


def test_a_start_cleans_a_run_on_another_disk_and_nothing_where_its_previews_lead(run, tmp_path):
    shared = tmp_path / "shared"
    (run / "previews").rename(shared)
    (run / "previews").symlink_to(shared)
    (elsewhere := tmp_path / "elsewhere").symlink_to(run)
    (run / ".tmp-run.json-1").touch()
    (shared / ".tmp-a.png-1").touch()
    assert main(train(elsewhere, "--steps", "5")) == 0
    assert [path.name for path in sorted(run.glob(f"{storage.TEMPORARY}*"))] == []
    assert (shared / ".tmp-a.png-1").exists()


def test_a_diverging_run_ends_with_its_own_code_and_keeps_its_checkpoint(run, capsys, monkeypatch):
    from alphabar.training.objectives.simple import Simple

    before = files(run / "step-000000004")
    monkeypatch.setattr(Simple, "__call__", lambda self, est, x0, eps, tr: est.out.flatten(1).sum(1) * float("nan"))
    monkeypatch.setattr("alphabar.cli.train._plan", lambda tables, *given: (0.01, tables))
    capsys.readouterr()
    assert main(train(run, "--steps", "6")) == 6
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "step 6" in err and "step-000000004" in err
    assert files(run / "step-000000004") == before
    assert json.loads((run / "run.json").read_text())["state"] == "diverged"


@pytest.mark.parametrize("where", ["held_out_loss", "generate"])
def test_an_average_that_diverged_is_a_divergence_too(here, capsys, monkeypatch, where):
    """The weights may be finite while what is computed from them is not."""
    if where == "held_out_loss":
        monkeypatch.setattr("alphabar.training.trainer.held_out_loss", lambda *given: float("inf"))
    else:
        from alphabar.base.pixels import to_uint8

        bad = torch.tensor([float("nan")])
        monkeypatch.setattr("alphabar.cli.loop.generate", lambda *given, **named: to_uint8(bad))
    assert main(train(here / "run")) == 6
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and "internal" not in err


def test_what_is_not_ours_is_not_set_aside(here, capsys):
    (here / "photos").mkdir()
    (here / "photos" / "cat.jpg").write_bytes(b"meow")
    main([*train(Path("photos")), "--fresh"])
    assert (here / "photos" / "cat.jpg").exists(), "--fresh renamed a folder that never was a run"


# --- sampling and measuring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "run", "-n", "0"], ["-n", "0"]),
        (["sample", "run", "-n", "-1"], ["-n", "-1"]),
        (["sample", "run", "-n", "many"], ["-n", "integer"]),
        (["sample", "run", "--seeds", "5-2"], ["--seeds", "5-2"]),
        (["sample", "run", "--seeds", "1,2"], ["--seeds", "1,2"]),
        (["sample", "run", "--seeds", "0-99999999999"], ["--seeds"]),
        (["sample", "run", "--seeds", "0-1", "-n", "2"], ["-n", "--seeds"]),
        (["sample", "run", "--steps", "9"], ["steps", "9", "8"]),
        (["sample", "run", "--steps", "0"], ["steps", "0"]),
        (["sample", "run", "--sampler", "dimm"], ["dimm", "ancestral", "did you mean 'ddim'"]),
        (["sample", "run", "--sampler", "huen"], ["huen", "dpmpp_2m", "did you mean 'heun'"]),
        (["sample", "run", "--sampler", "predictor_corrector", "sampler.snr=0"], ["sampler.snr", "0"]),
        (["sample", "run", "--weights", "emma"], ["--weights", "emma", "ema, raw"]),
        (["sample", "run", "chain.spacing=linear"], ["linear", "uniform"]),
        (["sample", "run", "chain.spacin=uniform"], ["chain.spacin", "spacing"]),
        (["sample", "run", "run.batch=3"], ["run", "sampler"]),
        (["sample", "run", "sampler.eta=1"], ["sampler.eta"]),
        (["sample", "run", "--sampler", "ddim", "sampler.eta=-1"], ["sampler.eta", "-1"]),
        (["sample", "run", "--sampler", "ddim", "sampler.eta=nan"], ["sampler.eta", "NaN"]),
        (["sample", "run", "denoiser.variance=learned"], ["denoiser.variance"]),
        (["sample", "run", "denoiser.clip=-1"], ["denoiser.clip", "-1"]),
        (["sample", "run", "denoiser.variance=3"], ["variance", "3"]),
        (["sample", "run", "chain=3"], ["chain"]),
        (["sample", "run", "sampler=3"], ["sampler"]),
        (["sample", "run", "chain.spacing=3"], ["spacing", "3"]),
        (["sample", "run", "chain.spacing=[1]"], ["spacing"]),
        (["evaluate", "run", "--metrics", "bdp"], ["bdp", "did you mean 'bpd'"]),
        (["evaluate", "run", "--metrics", ""], ["metrics"]),
        (["evaluate", "run", "-n", "0"], ["-n", "0"]),
        (["evaluate", "run", "--weights", "net"], ["--weights", "ema, raw"]),
        (["evaluate", "run", "--hops", "0"], ["hops", "0"]),
        (["evaluate", "run", "--hops", "8"], ["hops", "8", "7"]),
    ],
    ids=lambda v: " ".join(v[2:]) if v[0] in {"sample", "evaluate"} else "",
)
def test_requests_that_cannot_be(run, capsys, arguments, words):
    refused(capsys, arguments, 2, *words)


def test_models_that_are_none(run, capsys):
    Path("empty").mkdir()
    for command in ("sample", "evaluate", "inspect"):
        refused(capsys, [command, "nowhere"], 4, "nowhere", "no such")
        refused(capsys, [command, "tiny.npz"], 4, "tiny.npz", "file")
        refused(capsys, [command, "empty"], 4, "empty")


def test_evaluating_on_what_does_not_fit(run, capsys):
    refused(capsys, ["evaluate", "run", "--data", "nowhere"], 3, "nowhere")
    np.savez("wide.npz", images=np.zeros((4, 8, 16), np.uint8))
    np.savez("colour.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    refused(capsys, ["evaluate", "run", "--data", "colour.npz"], 3, "colour", "(3, 8, 8)", "(1, 8, 8)")


def test_evaluating_on_changed_images_is_refused(run, capsys):
    """Other images, other split: some of those 'held out' now may have been trained on."""
    np.savez("tiny.npz", images=pixels(60)[:, 0])
    refused(capsys, ["evaluate", "run"], 3, "images")


def test_a_checkpoint_of_another_shape(run, capsys):
    for step in checkpoint.steps(run):
        path = step / "ema.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors["first.weight"] = torch.zeros(4, 1, 5, 5)
        path.write_bytes(safetensors.torch.save(tensors))
        reseal(step)
    for command in (["sample", "run", "-n", "1"], ["evaluate", "run"], train(run, "--steps", "6")):
        refused(capsys, command, 4, "first.weight", "[4, 1, 5, 5]", "[4, 1, 3, 3]")


def test_samples_do_not_overwrite_what_is_not_samples(run, capsys):
    Path("photos").mkdir()
    Path("photos/00000.png").write_bytes(b"mine")
    refused(capsys, ["sample", "run", "-n", "1", "--out", "tiny.npz"], 2, "tiny.npz", "file")
    refused(capsys, ["sample", "run", "-n", "1", "--out", "tiny.npz/x"], 5, "tiny.npz")
    refused(capsys, ["sample", "run", "-n", "1", "--out", "photos"], 5, "photos")
    refused(capsys, ["sample", "run", "-n", "1", "--out", "run"], 5, "run")


def test_samples_do_not_overwrite_a_checkpoint(run, capsys):
    """A step has a manifest.json too; it is not that of samples."""
    refused(capsys, ["sample", "run", "-n", "1", "--out", "run/step-000000004"], 5, "step-000000004")


def test_a_crash_is_one_line_with_the_traceback_in_a_file(here, capsys, monkeypatch):
    def crash(*given, **named):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("alphabar.cli.equations.run", crash)
    assert main(["equations"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: internal: RuntimeError") and len(err.splitlines()) == 1
    assert "crash" in err and "Traceback" in (here / "alphabar-crash.log").read_text()
    assert main(["--debug", "equations"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_where_an_error_comes_from(here, capsys):
    assert main(["--debug", "inspect", "nowhere"]) == 4
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: nowhere")
