"""The loop of a training session: when to preview, measure, save and stop, and when to go back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.base.chunks import asked_for, is_out_of_memory
from alphabar.base.errors import AlphabarError, Crashed, Diverged, OutOfMemory, StorageError, printable
from alphabar.base.journal import Journal
from alphabar.cli import divergence
from alphabar.cli.console import Bar
from alphabar.cli.sample import class_labels, prepare
from alphabar.cli.stop import Stop, stopped
from alphabar.evaluation.doctor.history import History
from alphabar.evaluation.doctor.pixel_facts import PixelFacts, some_of
from alphabar.evaluation.doctor.watch import Watch
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.runtime import config as text
from alphabar.samplers.generate import generate
from alphabar.training import trainer
from alphabar.training.trainer import Metrics, Run
from alphabar.weights import checkpoint

__all__ = ["HELD_OUT_IMAGES", "PREVIEW_IMAGES", "PREVIEW_STEPS", "Loop", "pass_over"]

log = logging.getLogger("alphabar")
PREVIEW_IMAGES = 25
PREVIEW_STEPS = 20
HELD_OUT_IMAGES = 1024


def pass_over(directory: Path, chosen: Path | None, why: str) -> None:
    """Rename the checkpoints that are newer than ``chosen``: their numbers can be written again, nothing is deleted."""
    for newer in checkpoint.steps(directory):
        if chosen is None or newer > chosen:
            with storage.storage_errors(newer):
                storage.rename(newer, storage.unused(directory / f"{why}-{newer.name}"))


def _facts(m: Metrics) -> dict[str, Any]:
    """A line of metrics.jsonl; JSON has no word for what is not finite."""
    if m.skipped:
        return {"step": m.step, "skipped": True, "loss": repr(m.loss), "grad_norm": repr(m.grad_norm), "lr": m.lr}
    return {"step": m.step, "loss": m.loss, "lr": m.lr, "grad_norm": m.grad_norm, "seconds": round(m.seconds, 6)}


class Loop:
    """The policy of one training session. With ``find_micro_batch`` it takes fewer images at once where they don't fit.

    Only a run that cannot save its last state ends because of the disk. Until then, whatever the disk refuses costs a
    warning: lines of the log wait in memory, a preview is left out, a checkpoint is tried again at the next interval.
    """

    def __init__(self, run: Run, directory: Path, lines: int, *, find_micro_batch: bool) -> None:
        self.run, self.directory, self.find_micro_batch = run, directory, find_micro_batch
        self.colours = PixelFacts.of(some_of(run.images))
        self._warned = False
        self.begin(lines)

    def begin(self, lines: int) -> None:
        """Go on after the first ``lines`` of metrics.jsonl."""
        self.journal = Journal(self.directory / "metrics.jsonl", lines)
        self.watch = Watch(self.colours, History.read(self.directory), every=self.run.config.run.preview_every)
        self.smooth: float | None = None

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
        run, saved = self.run, checkpoint.steps(self.directory)
        facts = {
            "state": state,
            "step": run.step,
            "steps": run.config.run.steps,
            "saved": int(saved[0].name.removeprefix("step-")) if saved else None,
            "skipped": run.skipped,
            "exit_code": exit_code,
        }
        storage.write_changed(self.directory / "run.json", (json.dumps(facts, indent=1) + "\n").encode())

    def finish(self) -> None:
        """Say that all steps are done. Also for a process that died between its last save and this.

        Raises:
            StorageError: if the disk refuses.
        """
        try:
            self.write_status("finished", 0)
        except StorageError as error:
            raise StorageError(f"{error}; {self.newest()}") from error
        self.let_go()

    def crashed(self, error: Exception) -> AlphabarError:
        """The error that an exception nobody expected becomes; its traceback is kept in the run."""
        if is_out_of_memory(error):
            self.status("failed", OutOfMemory.exit_code)
            return OutOfMemory(f"out of memory{asked_for(error)}; use a smaller network, or close other programs")
        file = self.directory / "crash.log"
        with self.spared():
            storage.write_file(file, "".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
        self.status("failed", Crashed.exit_code)
        return Crashed(f"internal: {type(error).__name__}: {printable(error)} (details: {printable(file)})")

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
        """Train to the end; go back once where it diverges, and take fewer images at once where they do not fit.

        Raises:
            Stopped: after a signal, with the state saved.
            Diverged: when it diverges a second time.
        """
        while True:
            try:
                return self.advance(bar, stop)
            except Diverged as error:
                bar.say(f"note         {self.go_back(error)}")
            except OutOfMemory as error:
                bar.say(f"note         {self.shrink(error)}")

    def advance(self, bar: Bar, stop: Stop) -> None:
        """Train from where the run is, until the last step or an error."""
        settings = self.run.config.run
        began, first, owed = time.monotonic(), self.run.step, False
        for m in trainer.fit(self.run):
            self.record(_facts(m))
            if m.skipped:
                bar.say(f"note         step {m.step}: loss {m.loss:.4g}, gradient norm {m.grad_norm:.4g}: step skipped")
            self.watch.see(math.nan if m.skipped else m.loss)
            last = m.step == settings.steps
            if m.step % settings.preview_every == 0 or last:
                self.preview(bar)
            # read once: a signal that comes after this line is for the next step, which is then saved
            asked = stop.signal
            required = last or asked is not None
            owed |= m.step % settings.save_every == 0
            # weights that give no finite loss are nothing to go back to
            if required or (owed and not m.skipped):
                self.save(required=required)
                owed = False
            if asked is not None and not last:
                raise stopped(asked, m.step)
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
        file = self.directory / "diverged.json"
        with self.spared():
            storage.write_json(file, divergence.report(run, error, done))
        if again:
            kept = "no checkpoint yet" if good is None else f"last good checkpoint {good.name}"
            raise Diverged(f"{error}; {kept}; what it was doing is in {printable(file)}")
        pass_over(self.directory, good, "diverged")
        lines, reached = 0, run.step
        if good is None:
            trainer.restart(run, lr_scale=0.5)
        else:
            lines = int(trainer.resume(run, good, new_data=True)["metrics_lines"])
            run.lr_scale *= 0.5
        self.begin(lines)
        self.record({"step": run.step, "went_back_from": reached, "lr_scale": run.lr_scale})
        return f"{error}; {done}"

    def shrink(self, error: OutOfMemory) -> str:
        """Go on with the micro-batch that fits, where that was asked for; what was done, in words."""
        if not self.find_micro_batch or error.micro_batch is None:
            raise error
        config = self.run.config
        settings = dataclasses.replace(config.run, micro_batch=error.micro_batch)
        self.run.config = dataclasses.replace(config, run=settings)
        storage.write_changed(self.directory / "config.toml", text.dump(self.run.config))
        return f"{str(error).partition(';')[0]}: going on with {error.micro_batch} images at once"

    def smoothed(self, m: Metrics) -> float:
        """The running mean of the losses; a skipped step has none."""
        if not m.skipped:
            self.smooth = m.loss if self.smooth is None else 0.98 * self.smooth + 0.02 * m.loss
        return m.loss if self.smooth is None else self.smooth

    def record(self, facts: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
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
        sampler, chain, denoiser = prepare(denoiser, "dpmpp_2m", steps, quiet=True)
        images = generate(denoiser, sampler, chain, range(PREVIEW_IMAGES), y=y)
        bar.say(f"step {run.step}: {self.watch.verdict(run.step, held_out, images)}")
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
        self.let_go()

    def let_go(self) -> None:
        """Remove the checkpoints that are older than those to keep, if the disk lets us."""
        with self.spared(), storage.storage_errors(self.directory):
            for old in checkpoint.steps(self.directory)[self.run.config.run.keep :]:
                storage.remove(old)

    def commit(self) -> None:
        """Write the checkpoint of this step, unless it is there."""
        path = self.directory / f"step-{self.run.step:09d}"
        self.journal.sync()
        if not path.exists():
            trainer.save(self.run, path, {"metrics_lines": self.journal.lines})
