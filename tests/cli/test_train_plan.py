"""What ``train`` decides before it starts, and that only a time budget makes it depend on the clock."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alphabar.cli import loop, train
from alphabar.cli.loop import HELD_OUT_IMAGES, PREVIEW_IMAGES, PREVIEW_STEPS
from alphabar.cli.main import main
from alphabar.evaluation.doctor.watch import Watch
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain
from alphabar.training import trainer
from tiny import SETTINGS, config, images, npz, pixels

# what torch says to itself when its compiler is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")

TINY = ["net.base_channels=8", "run.batch=4"]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The settings that ``--dry-run`` prints."""
    assert main(["train", "digits", "--dry-run", *TINY, *arguments]) == 0
    return tomllib.loads(capsys.readouterr().out.partition("\n\n")[2])


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        ([], "classes are not used; net.num_classes=3 learns them"),
        (["net.num_classes=3"], None),
        (["net.num_classes=5"], "net.num_classes=5 is more than the images have: those from 3 on are never learnt"),
    ],
)
def test_what_becomes_of_the_classes_is_said(classes, note, tmp_path, capsys):
    source = npz(tmp_path / "tiny.npz", labels=3)
    assert main(["train", str(source), "--dry-run", *SETTINGS, *classes]) == 0
    notes = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    assert [text for text in notes if "classes" in text] == ([note] if note else [])


@pytest.mark.parametrize(("compiled", "said"), [(object(), False), (None, True)])
def test_that_a_compiler_would_help_is_said(compiled, said, monkeypatch, capsys):
    monkeypatch.setattr("alphabar.training.environment.winograd", lambda: compiled)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert main(["train", "digits", "--dry-run", *SETTINGS]) == 0
    assert ("there is no C compiler (cc) that works" in capsys.readouterr().out) == said


@pytest.mark.parametrize("seconds", [1e-3, 0.07, 5.0, 400.0])
@pytest.mark.parametrize("minutes", [0.5, 3.0, 600.0])
def test_a_time_budget_is_kept(minutes: float, seconds: float) -> None:
    """Steps and previews together fit, and at least nine tenths of what is left goes into steps when it can."""
    batch = 128
    steps = train.steps_within(minutes, seconds, batch)
    preview = (PREVIEW_IMAGES * PREVIEW_STEPS + HELD_OUT_IMAGES) * seconds / batch / 3
    previews = max(min(10, steps), steps / 1000)
    assert steps == 1 or steps * seconds + previews * preview <= minutes * 60
    if minutes * 60 > 200 * seconds:
        assert steps * seconds >= 0.6 * minutes * 60


def test_without_a_budget_the_clock_decides_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings whether a step takes a millisecond or a minute: two starts of one command are one run."""
    plans = []
    for seconds in (0.001, 60.0):
        monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience, s=seconds: s)
        plans.append(planned(capsys, "--steps", "40"))
    assert plans[0] == plans[1]
    assert plans[0]["run"]["steps"] == 40
    assert (plans[0]["run"]["preview_every"], plans[0]["run"]["save_every"]) == (4, 2)


def test_a_budget_decides_the_steps_and_what_follows_from_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(100, 30)  # thirty seconds go by between two looks at it, which the plan took
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience: 0.01)
    plan = planned(capsys, "--minutes", "2")
    steps = plan["run"]["steps"]
    assert steps == train.steps_within(1.5, 0.01, 4)
    assert plan["optim"]["warmup_steps"] == steps // 20
    assert plan["ema"]["halflife_images"] == steps * 4 // 20
    assert planned(capsys, "--minutes", "2", "optim.warmup_steps=7")["optim"]["warmup_steps"] == 7


def test_threads_that_were_given_are_not_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience: 0.01)
    monkeypatch.setattr(train, "_threads", lambda *_: 1)
    assert planned(capsys, "--minutes", "2")["run"]["threads"] == 1
    assert "threads" not in planned(capsys, "--minutes", "2", "run.threads=none")["run"]
    assert planned(capsys, "--minutes", "2", "run.threads=2")["run"]["threads"] == 2


@pytest.mark.parametrize(
    ("together", "alone", "gflop", "chosen"),
    [
        (0.3, 0.1, 0.02, 1),
        (0.07, 0.12, 0.02, 2),
        (0.1, 0.09, 0.02, 2),
        (5.0, 0.1, 0.02, 1),
        (0.9, 0.1, 12.0, 1),
        (5.0, None, 12.0, 2),
    ],
)
def test_threads_are_chosen_by_timing(
    monkeypatch: pytest.MonkeyPatch, together: float, alone: float | None, gflop: float, chosen: int
) -> None:
    """One thread only where it is clearly faster; steps that are slow since they are much work are not tried."""
    from alphabar.data.sources import open_source
    from alphabar.runtime.config import from_tables, merge, override
    from alphabar.runtime.recipes import recipe

    monkeypatch.setattr(train.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(train, "_seconds_per_step", lambda _, threads, patience: {2: together, 1: alone}[threads])
    monkeypatch.setattr(train, "flops_per_image", lambda _: gflop * 1e9)
    images = open_source("digits")
    config = from_tables(override(merge(recipe(images.shape, len(images)), {}), TINY))
    assert train._threads(config, images) == chosen


def test_a_preset_knows_nothing_of_the_size_of_this_set(capsys: pytest.CaptureFixture[str]) -> None:
    """CIFAR-10 holds out 1,000 images; 1,797 digits hold out a tenth, unless the user says otherwise."""
    assert planned(capsys, "--preset", "cifar10", "net.norm_groups=4", "--steps", "3")["data"]["held_out"] == 179
    more = planned(capsys, "--preset", "cifar10", "net.norm_groups=4", "--steps", "3", "data.held_out=300")
    assert more["data"]["held_out"] == 300


@pytest.mark.parametrize("extra", [["--steps", "5"], ["--minutes", "1"]])
def test_one_length_per_run(capsys: pytest.CaptureFixture[str], extra: list[str]) -> None:
    assert main(["train", "digits", "run.steps=4", *extra]) == 2
    assert "give one of them" in capsys.readouterr().err


@pytest.fixture
def hardly_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning takes next to no time: a hundredth of a second between two looks at the clock."""
    clock = itertools.count(100, 0.01)
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: next(clock)))


@pytest.mark.usefixtures("hardly_a_moment")
def test_a_time_budget_beats_the_steps_of_a_preset(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_seconds_per_step", lambda *_, patience: 0.01)
    plan = planned(capsys, "--preset", "review", "net.norm_groups=4", "--minutes", "2")
    assert plan["run"]["steps"] == train.steps_within(2 - 0.01 / 60, 0.01, 4)


def test_the_word_for_no_value_is_taken_for_every_setting_that_may_have_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "threads" not in planned(capsys, "--steps", "3", "run.threads=none")["run"]


def test_a_setting_that_source_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "data.source=other"]) == 2
    assert capsys.readouterr().err == "error: data.source: SOURCE says it; leave the setting out\n"


@pytest.mark.parametrize(
    "extra",
    [
        ["--preset", "review", "net.attention_heads=1", "net.num_res_blocks=1", "net.base_channels_multiples=[1]"],
        ["data.size=none", "run.threads=none"],
        ["--config", "of-another-run.toml"],
    ],
    ids=["preset", "none", "config"],
)
def test_the_same_command_again_goes_on(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch, extra) -> None:
    """Also where a setting was fitted to these images, or says that there is none, or names other images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of-another-run.toml").write_text('[data]\nsource = "other.npz"\n')
    tiny = ["net.norm_groups=2", "net.apply_attention=[false]", "net.base_channels_multiples=[1]", "schedule.T=8"]
    if "none" in extra[0]:
        tiny += ["net.patch_size=2"]
    command = ["train", "digits", "--out", "run", "--steps", "2", *TINY, *tiny, *extra]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0, capsys.readouterr().err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "train" in capsys.readouterr().out


class _Compiler:
    """Times of a step, compiled and not, on what is taken for a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, plain: float, compiled: float | Exception) -> None:
        self.asked: list[bool] = []

        def seconds(trial: trainer.Run, threads: int | None, patience: float) -> float:
            self.asked.append(trial.config.run.compile)
            if not trial.config.run.compile:
                return plain
            if isinstance(compiled, Exception):
                raise compiled
            return compiled

        real = trainer.build
        monkeypatch.setattr(train, "_seconds_per_step", seconds)
        monkeypatch.setattr(train, "_threads", lambda *_: None)
        monkeypatch.setattr(trainer, "build", lambda config, images: real(config, images, "cpu"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)


@pytest.mark.usefixtures("hardly_a_moment")
def test_a_long_run_on_a_gpu_is_compiled_where_that_is_faster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = _Compiler(monkeypatch, plain=0.1, compiled=0.05)
    plan = planned(capsys, "--minutes", "30")
    assert plan["run"]["compile"] and compiler.asked == [False, True]
    assert plan["run"]["steps"] == train.steps_within(30, 0.05, 4)
    # not asked for, not long, or decided by name
    assert not planned(capsys, "--steps", "100000")["run"]["compile"]
    assert not planned(capsys, "--minutes", "10")["run"]["compile"]
    assert not planned(capsys, "--minutes", "30", "run.compile=false")["run"]["compile"]
    assert compiler.asked == [False, True, False, False, False]


@pytest.mark.usefixtures("hardly_a_moment")
@pytest.mark.parametrize("compiled", [0.0999999, 0.2, RuntimeError("no C++ compiler was found\nand more")])
def test_what_compiling_does_not_gain(
    compiled: float | Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step as long, a longer one, and a machine that cannot: the run goes on without, and says why."""
    _Compiler(monkeypatch, plain=0.1, compiled=compiled)
    assert main(["train", "digits", "--dry-run", *TINY, "--minutes", "30"]) == 0
    out = capsys.readouterr().out
    assert "note         not compiled: " in out and "and more" not in out
    plan = tomllib.loads(out.partition("\n\n")[2])
    assert not plan["run"]["compile"] and plan["run"]["steps"] == train.steps_within(30, 0.1, 4)


def test_a_machine_that_cannot_compile_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Compiler(monkeypatch, plain=0.1, compiled=RuntimeError("no C++ compiler was found\nand more"))
    assert main(["train", "digits", "--dry-run", *TINY, "--steps", "40", "run.compile=true"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("run.compile: torch.compile fails here (no C++ compiler was found); set run.compile=false")
    assert "\n" not in said


def test_a_compiled_run_is_the_same_run_up_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as for compiling; turning that into C++, which takes minutes, is torch's own matter."""
    real, traced = torch.nn.Module.compile, []

    def trace(net: torch.nn.Module) -> None:
        traced.append(net)
        real(net, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    plain, compiled = (trainer.build(config(run={"compile": c, "steps": 3}), images(), "cpu") for c in (False, True))
    for one, other in zip(trainer.fit(plain), trainer.fit(compiled), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
    assert traced == [compiled.denoiser.net]
    for (name, one), (same_name, other) in zip(
        plain.denoiser.named_parameters(), compiled.denoiser.named_parameters(), strict=True
    ):
        assert name == same_name
        torch.testing.assert_close(other, one, rtol=0, atol=1e-4)


def test_a_preview_is_sampled_as_few_steps_are_and_the_watch_knows_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times even in ln SNR for images of more than 16 pixels a side; ``run.preview_every`` reaches the verdicts."""
    chains, every = [], []
    monkeypatch.setattr(loop, "generate", _noting(loop.generate, chains))
    monkeypatch.setattr(loop, "Watch", lambda *args, **more: every.append(more["every"]) or Watch(*args, **more))
    np.savez(tmp_path / "wide.npz", images=pixels(24, size=17)[:, 0])
    settings = [word for word in SETTINGS if not word.startswith("schedule.T")]
    lengths = ["--steps", "4", "run.preview_every=3", "schedule.T=100"]
    assert main(["train", str(tmp_path / "wide.npz"), "--out", str(tmp_path / "run"), *settings, *lengths]) == 0
    assert every == [3]
    even = Chain.spaced(chains[0].schedule, PREVIEW_STEPS, "logsnr").times
    assert [chain.times for chain in chains] == [even, even]  # at step 3 and at the end


def _noting(generate: Callable[..., torch.Tensor], chains: list[Chain]) -> Callable[..., torch.Tensor]:
    def noted(denoiser: Denoiser, sampler: object, chain: Chain, *args: object, **more: object) -> torch.Tensor:
        chains.append(chain)
        return generate(denoiser, sampler, chain, *args, **more)

    return noted
