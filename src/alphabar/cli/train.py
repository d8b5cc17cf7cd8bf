"""``alphabar train``: choose settings, print the plan, train, preview, save, resume."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.choice import from_table
from alphabar.base.errors import AlphabarError, CheckpointError, ConfigError, Diverged, StorageError, printable
from alphabar.cli.card import model_card
from alphabar.cli.console import Bar, duration, progress, say
from alphabar.data.batch import Images
from alphabar.data.sources import open_source
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.model.variance import VARIANCES
from alphabar.process.chain import Chain
from alphabar.runtime import config as text
from alphabar.runtime.recipes import recipe
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.generate import generate
from alphabar.training import trainer
from alphabar.training.config import DataConfig, RunConfig, RunSettings
from alphabar.training.trainer import Metrics, Run
from alphabar.weights import checkpoint

__all__ = ["run", "train"]

PREVIEW_IMAGES = 25
PREVIEW_STEPS = 50
HELD_OUT_IMAGES = 1024
MAY_CHANGE = {("run", "steps"), ("run", "save_every"), ("run", "preview_every"), ("run", "keep")}


def run(
    source: str,
    settings: Sequence[str],
    *,
    out: Path | None,
    preset: str | None,
    config: Path | None,
    steps: int | None,
    minutes: float | None,
    seed: int | None,
    fresh: bool,
    dry_run: bool,
) -> None:
    """The command."""
    if preset is not None and config is not None:
        raise ConfigError("--preset and --config: give one of them, and change it with key=value")
    if steps is not None and minutes is not None:
        raise ConfigError("--steps and --minutes: give one of them")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"--minutes: must be above 0, got {minutes:g}")
    over: dict[str, Any] = {} if preset is None else text.preset(preset)
    if config is not None:
        over = text.read_toml(config)
    shortcuts = [f"{key}={value}" for key, value in (("run.steps", steps), ("seed", seed)) if value is not None]
    over = text.override(over, [*settings, *shortcuts])
    text.check_sections(over)

    if out is not None and not dry_run:
        _check_place(out)
    size = over.get("data", {}).get("size")
    if size is not None:
        from_table(DataConfig, {"size": size}, "data")
    images = open_source(source, size)
    directory = out if out is not None else Path("runs") / (images.name or "run")
    saved = _saved_tables(directory) if not fresh else None
    if saved is not None:
        tables = _continued(saved, over, images, directory)
    else:
        base = text.merge(recipe(images.shape, len(images)), {"data": {"source": images.spec}})
        tables = text.merge(base, over)
        tables["data"]["source"] = images.spec
        variance = tables["denoiser"].get("variance")
        if "output_channels" not in over.get("net", {}) and variance in list(VARIANCES):
            tables["net"]["output_channels"] = images.shape[0] * VARIANCES[variance].channels
    chosen = text.from_tables(tables)

    for line in _about(images, chosen):
        say(line)
    if dry_run:
        _plan(chosen, images)
        say("")
        say(text.dump(chosen).decode())
        return
    if saved is None and chosen.run.threads is None:
        tables["run"]["threads"] = _threads(chosen, images)
        chosen = text.from_tables(tables)
    seconds = _plan(chosen, images)
    if saved is None:
        tables = text.merge(tables, {"run": pace(seconds, chosen.run.batch, chosen.run.steps, minutes)})
        chosen = text.from_tables(_fit_to_length(text.merge(tables, {"run": over.get("run", {})}), over))
    left = chosen.run.steps - (_steps_done(directory) if saved is not None else 0)
    say(f"plan         {chosen.run.steps:,} steps of {chosen.run.batch} images, about {duration(left * seconds)}")
    train(chosen, images, directory, fresh=fresh)


def _check_place(out: Path) -> None:
    """Raise StorageError early if no folder can be made at ``out``, before images are read and steps are timed."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not place.is_dir():
        raise StorageError(f"{printable(place)}: is a file; give a folder to --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{printable(place)}: not writable; give another folder to --out")


def _saved_tables(directory: Path) -> dict[str, Any] | None:
    file = directory / "config.toml"
    return text.read_toml(file) if file.exists() else None


def _steps_done(directory: Path) -> int:
    done = checkpoint.steps(directory)
    return int(done[0].name.removeprefix("step-")) if done else 0


def _continued(saved: dict[str, Any], over: dict[str, Any], images: Images, directory: Path) -> dict[str, Any]:
    """The saved settings, with what may change between sessions; anything else that differs is refused."""
    where = printable(directory)
    source = saved.get("data", {}).get("source")
    if source != images.spec:
        raise ConfigError(
            f"{where}: this run trains on {printable(source)}, got {printable(images.spec)}; "
            "use another --out, or --fresh to start over"
        )
    for section, value in over.items():
        for key, given in value.items() if isinstance(value, dict) else [("", value)]:
            before = saved.get(section, {}).get(key) if key else saved.get(section)
            if given != before and (section, key) not in MAY_CHANGE:
                name = f"{section}.{key}" if key else section
                raise ConfigError(
                    f"{where}: this run has {name} = {before}, got {printable(given)}; "
                    "leave it out to continue, or use --fresh to start over"
                )
    return text.merge(saved, over)


def _fit_to_length(tables: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """What the recipe derives from the length of the run, unless the user set it (``over``)."""
    settings = from_table(RunSettings, tables["run"], "run")
    steps, batch = settings.steps, settings.batch
    derived = {
        "optim": {"warmup_steps": max(1, min(steps // 20, 2000))},
        "ema": {"halflife_images": max(batch, min(steps * batch // 20, 887_000))},
    }
    return text.merge(text.merge(tables, derived), {k: v for k, v in over.items() if k in derived})


def _about(images: Images, config: RunConfig) -> list[str]:
    classes = f", {len(images.class_names)} classes" if images.class_names else ""
    kept = f" ({config.data.held_out:,} held out)" if config.data.held_out else ""
    return [
        f"data         {printable(images.name)}: {len(images):,} images{kept}{classes}",
        *(f"note         {n}" for n in images.notes),
    ]


def _plan(config: RunConfig, images: Images) -> float:
    """Print the model card; time a few steps on a copy of the run and return the seconds of one."""
    trial = trainer.build(config, images)
    for line in model_card(trial.denoiser):
        say(line)
    seconds = _seconds_per_step(trial, config.run.threads, patience=10)
    where = str(trial.device) if config.run.threads is None else f"{trial.device}, {config.run.threads} threads"
    say(f"speed        {seconds * 1000:.3g} ms per step, {config.run.batch / seconds:,.0f} images/s on {where}")
    return seconds


def _seconds_per_step(trial: Run, threads: int | None, patience: float) -> float:
    """The median of a few steps of a run that is thrown away, after some to warm up."""
    if threads is not None:
        torch.set_num_threads(threads)
    steps = trainer.fit(trial)
    durations: list[float] = []
    began = time.perf_counter()
    while len(durations) < 13 and (len(durations) < 4 or time.perf_counter() - began < patience):
        try:
            durations.append(next(steps).seconds)
        except StopIteration:
            break
    steps.close()  # type: ignore[attr-defined]
    timed = sorted(durations[len(durations) // 4 :])
    return timed[len(timed) // 2]


def _threads(config: RunConfig, images: Images) -> int | None:
    """How many threads train fastest here: all, or one.

    Threads wait for each other at every layer. Where another process holds a core, a small network is several times
    faster on one thread; the number is kept with the settings, because it decides how sums are rounded.
    """
    most = torch.get_num_threads()
    trial = trainer.build(config, images)
    if trial.device.type != "cpu" or most == 1:
        return None
    together = _seconds_per_step(trial, most, patience=4)
    if together > 1:
        return most
    alone = _seconds_per_step(trainer.build(config, images), 1, patience=4)
    return 1 if alone < 0.8 * together else most


def pace(seconds: float, batch: int, steps: int, minutes: float | None) -> dict[str, int]:
    """How often to preview and save at ``seconds`` per step, and the number of steps that fit ``minutes``.

    Some twenty previews per run, but not more than one in 20 s nor less than one in 5 min, and never so often that they
    take a tenth of the time.
    """
    preview = (PREVIEW_IMAGES * PREVIEW_STEPS + HELD_OUT_IMAGES) * seconds / batch / 3
    total = steps * seconds if minutes is None else minutes * 60 * 0.97
    between = max(20.0, min(300.0, total / 20), 10 * preview)
    if minutes is not None:
        steps = max(1, int(total * between / (between + preview) / seconds))
    every = max(1, round(between / seconds))
    return {"steps": steps, "preview_every": every, "save_every": every}


class _Stop:
    """A signal asks the loop to finish its step, save and leave; a second one leaves at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


class Stopped(AlphabarError):
    """Training was asked to stop and saved its state: run the same command to go on."""

    def __init__(self, step: int, by: signal.Signals) -> None:
        super().__init__(f"stopped at step {step} ({by.name}), saved; run the same command to continue")
        self.exit_code = 130 if by == signal.SIGINT else 75


def train(config: RunConfig, images: Images, directory: Path, *, fresh: bool = False) -> Run:
    """Train in ``directory`` from its newest checkpoint to the last step, writing previews, metrics and checkpoints.

    Raises:
        Stopped: after a signal, with the state saved.
        Diverged: when loss or gradient is not finite; the newest checkpoint is intact.
    """
    if fresh and directory.exists():
        _set_aside(directory)
    with storage.Lock(directory), _Stop() as stop:
        for leftover in directory.rglob(f"{storage.TEMPORARY}*"):
            storage.remove(leftover)
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        run = trainer.build(config, images)
        state = _resume(run, directory)
        if run.step >= config.run.steps:
            say(f"finished     {printable(directory)} has all {run.step:,} steps; --steps N goes on, --fresh restarts")
            return run
        storage.write_file(directory / "config.toml", text.dump(config))
        session = _Session(run, directory, lines=int(state.get("metrics_lines", 0)))
        if run.step:
            say(f"resuming     at step {run.step:,}")
        say(f"run          {printable(directory)}")
        session.status("running", None)
        try:
            with progress(config.run.steps, "step", run.step) as bar:
                session.follow(bar, stop)
        except Diverged as error:
            newest = checkpoint.steps(directory)
            session.status("diverged", Diverged.exit_code)
            kept = f"last good checkpoint {newest[0].name}" if newest else "no checkpoint yet"
            raise Diverged(f"{error}; {kept}") from None
        except AlphabarError as error:
            session.status("preempted" if isinstance(error, Stopped) else "failed", error.exit_code)
            raise
        except Exception:
            session.status("failed", 1)
            raise
        session.status("finished", 0)
        say(f"finished     {printable(directory)}: {run.step:,} steps; next: alphabar sample {printable(directory)}")
        return run


def _set_aside(directory: Path) -> None:
    """Keep an old run under another name: starting over must not delete work.

    Raises:
        StorageError: if the folder is no run of ours.
    """
    if any(directory.iterdir()) and not (directory / "config.toml").exists() and not checkpoint.steps(directory):
        raise StorageError(f"{printable(directory)}: is no run, so --fresh leaves it alone; give another --out")
    old = _unused(directory.with_name(f"{directory.name}.old"))
    with storage.Lock(directory), storage.storage_errors(directory):
        storage.rename(directory, old)
    say(f"note         the run that was there is now {printable(old)}")


def _unused(path: Path) -> Path:
    """``path-1``, or the first of ``path-2``, … that does not exist."""
    number = 1
    while (free := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return free


def _resume(run: Run, directory: Path) -> dict[str, Any]:
    newest = checkpoint.latest(directory)
    if newest is not None:
        for damaged in checkpoint.steps(directory):
            if damaged > newest:
                storage.rename(damaged, _unused(directory / f"damaged-{damaged.name}"))
        return trainer.resume(run, newest)
    if checkpoint.steps(directory):
        raise CheckpointError(f"{printable(directory)}: no checkpoint is intact; --fresh starts over and keeps these")
    return {}


class _Session:
    """The policy of one training session: when to preview, measure, save and stop."""

    def __init__(self, run: Run, directory: Path, lines: int) -> None:
        self.run, self.directory, self.lines = run, directory, lines
        self.metrics = directory / "metrics.jsonl"
        storage.truncate_lines(self.metrics, lines)
        self.smooth: float | None = None

    def status(self, state: str, exit_code: int | None) -> None:
        facts = {"state": state, "step": self.run.step, "steps": self.run.config.run.steps, "exit_code": exit_code}
        storage.write_json(self.directory / "run.json", facts)

    def follow(self, bar: Bar, stop: _Stop) -> None:
        settings = self.run.config.run
        began, first = time.monotonic(), self.run.step
        for m in trainer.fit(self.run):
            self.record(
                {"step": m.step, "loss": m.loss, "lr": m.lr, "grad_norm": m.grad_norm, "seconds": round(m.seconds, 6)}
            )
            last = m.step == settings.steps
            if m.step % settings.preview_every == 0 or last:
                self.preview(bar)
            if m.step % settings.save_every == 0 or last or stop.signal is not None:
                self.save()
            if stop.signal is not None and not last:
                raise Stopped(m.step, stop.signal)
            speed = (m.step - first) * settings.batch / (time.monotonic() - began)
            bar.update(m.step, f"loss {self.smoothed(m):.4f}  rate {m.lr:.2g}  {speed:,.0f} images/s")

    def smoothed(self, m: Metrics) -> float:
        self.smooth = m.loss if self.smooth is None else 0.98 * self.smooth + 0.02 * m.loss
        return self.smooth

    def record(self, facts: dict[str, Any]) -> None:
        storage.append_line(self.metrics, json.dumps(facts, allow_nan=False))
        self.lines += 1

    def preview(self, bar: Bar) -> None:
        """A grid from the EMA weights at fixed seeds, and the held-out loss at fixed noise."""
        run = self.run
        held_out = trainer.held_out_loss(run, HELD_OUT_IMAGES)
        if held_out is not None:
            if not math.isfinite(held_out):
                raise Diverged(f"step {run.step}: the held-out loss is {held_out}; lower optim.lr")
            self.record({"step": run.step, "held_out_loss": held_out})
            bar.say(f"step {run.step}: held-out loss {held_out:.4f} (EMA weights, fixed noise)")
        denoiser = run.ema.denoiser
        y = None
        if run.config.net.num_classes:
            y = torch.arange(PREVIEW_IMAGES) % run.config.net.num_classes
        steps = min(PREVIEW_STEPS, denoiser.schedule.T)
        chain = Chain.spaced(denoiser.schedule, steps)
        images = generate(denoiser, DDIM(), chain, range(PREVIEW_IMAGES), y=y)
        if images.shape[1] in (1, 3, 4):
            write_png(self.directory / "previews" / f"step-{run.step:09d}.png", grid(enlarge(images)))

    def save(self) -> None:
        run = self.run
        path = self.directory / f"step-{run.step:09d}"
        storage.sync_file(self.metrics)
        if not path.exists():
            trainer.save(run, path, {"metrics_lines": self.lines})
        self.status("running", None)
        for old in checkpoint.steps(self.directory)[run.config.run.keep :]:
            storage.remove(old)
