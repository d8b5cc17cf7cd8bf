"""One session of training: when to preview, measure, save and stop, and what a run folder holds afterwards."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.chunks import asked_for, is_out_of_memory
from alphabar.base.errors import (
    AlphabarError,
    CheckpointError,
    Crashed,
    DataError,
    Diverged,
    OutOfMemory,
    Stopped,
    StorageError,
    printable,
)
from alphabar.cli import divergence
from alphabar.cli.console import Bar, progress, say
from alphabar.cli.sample import class_labels
from alphabar.data.batch import Images
from alphabar.data.inventory import difference, inventory
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.process.chain import Chain
from alphabar.runtime import config as text
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.generate import generate
from alphabar.training import trainer
from alphabar.training.config import RunConfig
from alphabar.training.environment import changes, environment
from alphabar.training.trainer import Metrics, Run
from alphabar.weights import checkpoint

__all__ = ["HELD_OUT_IMAGES", "PREVIEW_IMAGES", "PREVIEW_STEPS", "Conditions", "train"]

INVENTORY = "images.tsv"
log = logging.getLogger("alphabar")

PREVIEW_IMAGES = 25
PREVIEW_STEPS = 50
HELD_OUT_IMAGES = 1024


# what run.json says of a session that ended with an error; any other one failed
_STATES: dict[type[AlphabarError], str] = {Stopped: "preempted", Diverged: "diverged"}


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


@dataclass(frozen=True)
class Conditions:
    """What a session may do: start over, go on with other images, find a micro-batch that fits; what it may not."""

    fresh: bool = False
    new_data: bool = False
    strict: bool = False
    find_micro_batch: bool = False


def train(config: RunConfig, images: Images, directory: Path, conditions: Conditions = Conditions()) -> Run:
    """Train in ``directory`` from its newest checkpoint to the last step, writing previews, metrics and checkpoints.

    Raises:
        Stopped: after a signal, with the state saved.
        Diverged: when loss or gradient stays non-finite, also at half the rate; the newest checkpoint is intact.
        CheckpointError: if the conditions are ``strict`` and the environment is another than before.
    """
    if conditions.fresh and directory.exists():
        _set_aside(directory)
    with storage.Lock(directory), _Stop() as stop:
        for leftover in directory.rglob(f"{storage.TEMPORARY}*"):
            storage.remove(leftover)
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        run = trainer.build(config, images)
        state = _resume(run, images, directory, conditions)
        if run.step >= config.run.steps:
            say(f"finished     {printable(directory)} has all {run.step:,} steps; --steps N goes on, --fresh restarts")
            return run
        storage.write_file(directory / "config.toml", text.dump(config))
        if conditions.new_data or not (directory / INVENTORY).exists():
            storage.write_file(directory / INVENTORY, inventory(images))
        session = _Session(run, directory, conditions, lines=int(state.get("metrics_lines", 0)))
        if run.step:
            say(f"resuming     at step {run.step:,}")
        say(f"run          {printable(directory)}")
        session.status("running", None)
        try:
            with progress(config.run.steps, "step", run.step) as bar:
                session.follow(bar, stop)
        except AlphabarError as error:
            session.status(_STATES.get(type(error), "failed"), error.exit_code)
            raise
        except Exception as error:
            raise session.crashed(error) from error
        session.status("finished", 0)
        skipped = f" ({run.skipped} skipped, not finite)" if run.skipped else ""
        say(
            f"finished     {printable(directory)}: {run.step:,} steps{skipped}; next: alphabar sample "
            f"{printable(directory)}"
        )
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


def _check_images(images: Images, directory: Path) -> None:
    """Raise DataError where the images are not those that the run began with."""
    file = directory / INVENTORY
    found = difference(file.read_bytes(), images) if file.exists() else ""
    if found:
        raise DataError(
            f"{printable(images.name)}: {found} since {printable(directory)} began; restore them, go on with these by "
            "--accept-new-data, or start over with --fresh"
        )


def _resume(run: Run, images: Images, directory: Path, conditions: Conditions) -> dict[str, Any]:
    newest = checkpoint.latest(directory)
    if newest is not None:
        if not conditions.new_data:
            _check_images(images, directory)
        state = trainer.resume(run, newest, new_data=conditions.new_data)
        differing = changes(state.get("environment", {}), environment(run.device))
        if differing and conditions.strict:
            raise CheckpointError(
                f"{printable(newest)}: made with other {differing}; without --strict-resume the run goes on, but not "
                "bitwise the same"
            )
        if differing:
            log.warning("resuming with other %s: the run goes on, but not bitwise the same", differing)
        _pass_over(directory, newest, "damaged")
        return state
    if checkpoint.steps(directory):
        raise CheckpointError(f"{printable(directory)}: no checkpoint is intact; --fresh starts over and keeps these")
    return {}


def _pass_over(directory: Path, chosen: Path | None, why: str) -> None:
    """Rename the checkpoints that are newer than ``chosen``: their numbers can be written again, nothing is deleted."""
    for newer in checkpoint.steps(directory):
        if chosen is None or newer > chosen:
            storage.rename(newer, _unused(directory / f"{why}-{newer.name}"))


def _facts(m: Metrics) -> dict[str, Any]:
    """A line of metrics.jsonl; JSON has no word for what is not finite."""
    if m.skipped:
        return {"step": m.step, "skipped": True, "loss": repr(m.loss), "grad_norm": repr(m.grad_norm), "lr": m.lr}
    return {"step": m.step, "loss": m.loss, "lr": m.lr, "grad_norm": m.grad_norm, "seconds": round(m.seconds, 6)}


class _Session:
    """The policy of one training session: when to preview, measure, save and stop, and when to go back."""

    def __init__(self, run: Run, directory: Path, conditions: Conditions, lines: int) -> None:
        self.run, self.directory, self.conditions, self.lines = run, directory, conditions, lines
        self.metrics = directory / "metrics.jsonl"
        storage.truncate_lines(self.metrics, lines)
        self.smooth: float | None = None

    def status(self, state: str, exit_code: int | None) -> None:
        run = self.run
        facts = {"state": state, "step": run.step, "steps": run.config.run.steps, "exit_code": exit_code}
        storage.write_json(self.directory / "run.json", {**facts, "skipped": run.skipped})

    def crashed(self, error: Exception) -> AlphabarError:
        """The error that an exception nobody expected becomes; its traceback is kept in the run."""
        if is_out_of_memory(error):
            self.status("failed", OutOfMemory.exit_code)
            return OutOfMemory(f"out of memory{asked_for(error)}; use a smaller network, or close other programs")
        file = self.directory / "crash.log"
        storage.write_file(file, "".join(traceback.format_exception(error)).encode())
        self.status("failed", Crashed.exit_code)
        return Crashed(f"internal: {type(error).__name__}: {printable(error)} (details: {printable(file)})")

    def follow(self, bar: Bar, stop: _Stop) -> None:
        """Train to the end; go back once where it diverges, and take fewer images at once where they do not fit."""
        while True:
            try:
                return self.advance(bar, stop)
            except Diverged as error:
                bar.say(f"note         {self.go_back(error)}")
            except OutOfMemory as error:
                bar.say(f"note         {self.shrink(error)}")

    def advance(self, bar: Bar, stop: _Stop) -> None:
        settings = self.run.config.run
        began, first, owed = time.monotonic(), self.run.step, False
        for m in trainer.fit(self.run):
            self.record(_facts(m))
            if m.skipped:
                bar.say(f"note         step {m.step}: loss {m.loss:.4g}, gradient norm {m.grad_norm:.4g}: step skipped")
            last = m.step == settings.steps
            if m.step % settings.preview_every == 0 or last:
                self.preview(bar)
            owed |= m.step % settings.save_every == 0
            # weights that give no finite loss are nothing to go back to
            if (owed and not m.skipped) or last or stop.signal is not None:
                self.save()
                owed = False
            if stop.signal is not None and not last:
                raise Stopped(m.step, stop.signal.name, 130 if stop.signal == signal.SIGINT else 75)
            speed = (m.step - first) * settings.batch / (time.monotonic() - began)
            bar.update(m.step, f"loss {self.smoothed(m):.4f}  rate {m.lr:.2g}  {speed:,.0f} images/s")

    def go_back(self, error: Diverged) -> str:
        """Return to the last checkpoint with a finite loss, at half the rate; what was done, in words.

        Raises:
            Diverged: the second time.
        """
        run, good = self.run, divergence.last_good(self.directory)
        where = "the first step" if good is None else good.name
        again = run.lr_scale < 1
        done = f"stopped; {where} is intact" if again else f"went back to {where} with half the rate"
        storage.write_json(self.directory / "diverged.json", divergence.report(run, error, done))
        if again:
            kept = "no checkpoint yet" if good is None else f"last good checkpoint {good.name}"
            raise Diverged(f"{error}; {kept}; what it was doing is in {printable(self.directory / 'diverged.json')}")
        _pass_over(self.directory, good, "diverged")
        lines, reached = 0, run.step
        if good is None:
            trainer.restart(run, lr_scale=0.5)
        else:
            lines = int(trainer.resume(run, good, new_data=True)["metrics_lines"])
            run.lr_scale *= 0.5
        self.lines, self.smooth = lines, None
        storage.truncate_lines(self.metrics, lines)
        self.record({"step": run.step, "went_back_from": reached, "lr_scale": run.lr_scale})
        return f"{error}; {done}"

    def shrink(self, error: OutOfMemory) -> str:
        """Go on with the micro-batch that fits, where that was asked for; what was done, in words."""
        if not self.conditions.find_micro_batch or error.micro_batch is None:
            raise error
        config = self.run.config
        settings = dataclasses.replace(config.run, micro_batch=error.micro_batch)
        self.run.config = dataclasses.replace(config, run=settings)
        storage.write_file(self.directory / "config.toml", text.dump(self.run.config))
        return f"{str(error).partition(';')[0]}: going on with {error.micro_batch} images at once"

    def smoothed(self, m: Metrics) -> float:
        if self.smooth is None or m.skipped:
            self.smooth = self.smooth if m.skipped and self.smooth is not None else m.loss
        else:
            self.smooth = 0.98 * self.smooth + 0.02 * m.loss
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
