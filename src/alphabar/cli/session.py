"""One session of training: when to preview, measure, save and stop, and what a run folder holds afterwards."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.errors import AlphabarError, CheckpointError, Diverged, Stopped, StorageError, printable
from alphabar.base.journal import Journal
from alphabar.cli.console import Bar, progress, say
from alphabar.cli.sample import class_labels
from alphabar.cli.stop import INTERRUPTED, Stop, stopped
from alphabar.data.batch import Images
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
log = logging.getLogger("alphabar")


def train(config: RunConfig, images: Images, directory: Path, *, fresh: bool = False) -> Run:
    """Train in ``directory`` from its newest checkpoint to the last step, writing previews, metrics and checkpoints.

    Raises:
        Stopped: after a signal, with the state saved.
        Diverged: when loss or gradient is not finite; the newest checkpoint is intact.
        StorageError: when the last state cannot be saved. Before that, a disk that refuses costs a warning.
    """
    if fresh and directory.exists():
        _set_aside(directory)
    with storage.Lock(directory), Stop() as stop:
        with storage.storage_errors(directory):
            for leftover in directory.rglob(f"{storage.TEMPORARY}*"):
                storage.remove(leftover)
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        run = trainer.build(config, images)
        state = _resume(run, directory)
        session = _Session(run, directory, lines=int(state.get("metrics_lines", 0)))
        if run.step >= config.run.steps:
            session.finish()
            say(f"finished     {printable(directory)} has all {run.step:,} steps; --steps N goes on, --fresh restarts")
            return run
        storage.write_changed(directory / "config.toml", text.dump(config))
        if run.step:
            say(f"resuming     at step {run.step:,}")
        say(f"run          {printable(directory)}")
        session.status("running", None)
        try:
            with progress(config.run.steps, "step", run.step) as bar:
                session.follow(bar, stop)
        except Diverged as error:
            session.status("diverged", Diverged.exit_code)
            raise Diverged(f"{error}; {session.newest()}") from None
        except AlphabarError as error:
            session.status("preempted" if isinstance(error, Stopped) else "failed", error.exit_code)
            raise
        except KeyboardInterrupt:
            session.status("preempted", INTERRUPTED)
            raise
        except Exception:
            session.status("failed", 1)
            raise
        session.finish()
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
                with storage.storage_errors(damaged):
                    storage.rename(damaged, _unused(directory / f"damaged-{damaged.name}"))
        return trainer.resume(run, newest)
    if checkpoint.steps(directory):
        raise CheckpointError(f"{printable(directory)}: no checkpoint is intact; --fresh starts over and keeps these")
    return {}


class _Session:
    """The policy of one training session: when to preview, measure, save and stop.

    Only a run that cannot save its last state ends because of the disk. Until then, whatever the disk refuses costs a
    warning: lines of the log wait in memory, a preview is left out, a checkpoint is tried again at the next interval.
    """

    def __init__(self, run: Run, directory: Path, lines: int) -> None:
        self.run, self.directory = run, directory
        self.journal = Journal(directory / "metrics.jsonl", lines)
        self.smooth: float | None = None
        self._warned = False

    def newest(self) -> str:
        """Which checkpoint there is, for the message of an error."""
        found = checkpoint.steps(self.directory)
        return f"last checkpoint {found[0].name} is intact" if found else "no checkpoint yet"

    def status(self, state: str, exit_code: int | None) -> None:
        """Write run.json if the disk takes it."""
        with self.spared():
            self.write_status(state, exit_code)

    def write_status(self, state: str, exit_code: int | None) -> None:
        """Write run.json unless it says so already.

        Raises:
            StorageError: if the disk refuses.
        """
        saved = checkpoint.steps(self.directory)
        facts = {
            "state": state,
            "step": self.run.step,
            "steps": self.run.config.run.steps,
            "saved": int(saved[0].name.removeprefix("step-")) if saved else None,
            "exit_code": exit_code,
        }
        data = (json.dumps(facts, indent=1) + "\n").encode()
        storage.write_changed(self.directory / "run.json", data)

    def finish(self) -> None:
        """Say that all steps are done. Also for a process that died between its last save and this."""
        try:
            self.write_status("finished", 0)
        except StorageError as error:
            raise StorageError(f"{error}; {self.newest()}") from error

    @contextlib.contextmanager
    def spared(self) -> Iterator[None]:
        """What the disk refuses here is done without: one warning until a checkpoint is saved again."""
        try:
            yield
        except StorageError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s; training goes on", error)

    def follow(self, bar: Bar, stop: Stop) -> None:
        settings = self.run.config.run
        began, first = time.monotonic(), self.run.step
        for m in trainer.fit(self.run):
            self.record(
                {"step": m.step, "loss": m.loss, "lr": m.lr, "grad_norm": m.grad_norm, "seconds": round(m.seconds, 6)}
            )
            last = m.step == settings.steps
            if m.step % settings.preview_every == 0 or last:
                self.preview(bar)
            # read once: a signal that comes after this line is for the next step, which is then saved
            asked = stop.signal
            if m.step % settings.save_every == 0 or last or asked is not None:
                self.save(required=last or asked is not None)
            if asked is not None and not last:
                raise stopped(asked, m.step)
            speed = (m.step - first) * settings.batch / (time.monotonic() - began)
            bar.update(m.step, f"loss {self.smoothed(m):.4f}  rate {m.lr:.2g}  {speed:,.0f} images/s")

    def smoothed(self, m: Metrics) -> float:
        self.smooth = m.loss if self.smooth is None else 0.98 * self.smooth + 0.02 * m.loss
        return self.smooth

    def record(self, facts: dict[str, Any]) -> None:
        with self.spared():
            self.journal.add(json.dumps(facts, allow_nan=False))

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
            with self.spared():
                write_png(self.directory / "previews" / f"step-{run.step:09d}.png", grid(enlarge(images)))

    def save(self, *, required: bool) -> None:
        """Commit a checkpoint, then let go of old ones. One that is not ``required`` may fail with a warning.

        Raises:
            StorageError: if it is required and the disk refuses.
        """
        try:
            self.commit()
        except StorageError as error:
            if required:
                raise StorageError(f"{error}; {self.newest()}") from error
            self._warned = True
            log.warning("%s; %s, training goes on and saves again later", error, self.newest())
            return
        self._warned = False
        self.status("running", None)
        with self.spared(), storage.storage_errors(self.directory):
            for old in checkpoint.steps(self.directory)[self.run.config.run.keep :]:
                storage.remove(old)

    def commit(self) -> None:
        path = self.directory / f"step-{self.run.step:09d}"
        self.journal.sync()
        if not path.exists():
            trainer.save(self.run, path, {"metrics_lines": self.journal.lines})
