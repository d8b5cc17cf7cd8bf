"""One session of training: when to preview, measure, save and stop, and what a run folder holds afterwards."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.errors import AlphabarError, CheckpointError, Diverged, Stopped, StorageError, printable
from alphabar.cli.console import Bar, progress, say
from alphabar.cli.sample import class_labels
from alphabar.data.batch import Images
from alphabar.evaluation.doctor.history import History
from alphabar.evaluation.doctor.pixel_facts import PixelFacts, some_of
from alphabar.evaluation.doctor.watch import Watch
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.process.chain import Chain
from alphabar.runtime import config as text
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.generate import generate
from alphabar.training import trainer
from alphabar.training.config import RunConfig
from alphabar.training.trainer import Metrics, Run
from alphabar.weights import checkpoint

__all__ = ["HELD_OUT_IMAGES", "PREVIEW_IMAGES", "PREVIEW_STEPS", "train"]

PREVIEW_IMAGES = 25
PREVIEW_STEPS = 50
HELD_OUT_IMAGES = 1024


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
        self.watch = Watch(PixelFacts.of(some_of(run.images)), History.read(directory))

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
            self.watch.see(m.loss)
            last = m.step == settings.steps
            if m.step % settings.preview_every == 0 or last:
                self.preview(bar)
            if m.step % settings.save_every == 0 or last or stop.signal is not None:
                self.save()
            if stop.signal is not None and not last:
                raise Stopped(m.step, stop.signal.name, 130 if stop.signal == signal.SIGINT else 75)
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
        y = class_labels(denoiser, range(PREVIEW_IMAGES))
        steps = min(PREVIEW_STEPS, denoiser.schedule.T)
        chain = Chain.spaced(denoiser.schedule, steps)
        images = generate(denoiser, DDIM(), chain, range(PREVIEW_IMAGES), y=y)
        bar.say(f"step {run.step}: {self.watch.verdict(run.step, held_out, images)}")
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
