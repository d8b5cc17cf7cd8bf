"""One session of training: who may write, where it goes on, and what is left behind however it ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.errors import AlphabarError, CheckpointError, DataError, Diverged, Stopped, StorageError, printable
from alphabar.cli.console import progress, say
from alphabar.cli.loop import Loop, pass_over
from alphabar.cli.stop import INTERRUPTED, Stop
from alphabar.data.batch import Images
from alphabar.data.inventory import difference, inventory
from alphabar.runtime import config as text
from alphabar.training import trainer
from alphabar.training.config import RunConfig
from alphabar.training.environment import changes, environment
from alphabar.training.trainer import Run
from alphabar.weights import checkpoint

__all__ = ["Conditions", "train"]

log = logging.getLogger("alphabar")
INVENTORY = "images.tsv"

# what run.json says of a session that ended with an error; any other one failed
STATES: dict[type[AlphabarError], str] = {Stopped: "preempted", Diverged: "diverged"}


@dataclass(frozen=True)
class Conditions:
    """What a session may do: start over, go on with other images, find a micro-batch that fits; what it may not."""

    fresh: bool = False
    new_data: bool = False
    strict: bool = False
    find_micro_batch: bool = False


def train(config: RunConfig, images: Images, directory: Path, conditions: Conditions) -> Run:
    """Train in ``directory`` from its newest checkpoint to the last step, writing previews, metrics and checkpoints.

    Raises:
        Stopped: after a signal, with the state saved.
        Diverged: when loss or gradient stays non-finite, also at half the rate; the newest checkpoint is intact.
        StorageError: when the last state cannot be saved. Before that, a disk that refuses costs a warning.
        CheckpointError: if the conditions are ``strict`` and the environment is another than before.
        DataError: if the images are others than before, and may not be.
    """
    if conditions.fresh and directory.exists():
        _set_aside(directory)
    with storage.Lock(directory), Stop() as stop:
        with storage.storage_errors(directory):
            # other commands write in folders of their own, without the lock; and where a link leads, others may too
            previews = directory / "previews"
            for folder in [directory] if previews.is_symlink() else [directory, previews]:
                for leftover in folder.glob(f"{storage.TEMPORARY}*"):
                    storage.remove(leftover)
        if config.run.threads is not None:
            torch.set_num_threads(config.run.threads)
        run = trainer.build(config, images)
        state = _resume(run, images, directory, conditions)
        _note_repairs(directory)
        lines = int(state.get("metrics_lines", 0))
        loop = Loop(run, directory, lines, find_micro_batch=conditions.find_micro_batch)
        if run.step >= config.run.steps:
            loop.finish()
            say(f"finished     {printable(directory)} has all {run.step:,} steps; --steps N goes on, --fresh restarts")
            return run
        storage.write_changed(directory / "config.toml", text.dump(config))
        if conditions.new_data or not (directory / INVENTORY).exists():
            storage.write_file(directory / INVENTORY, inventory(images))
        if run.step:
            say(f"resuming     at step {run.step:,}")
        say(f"run          {printable(directory)}")
        _follow(loop, stop)
        skipped = f" ({run.skipped} skipped, not finite)" if run.skipped else ""
        say(
            f"finished     {printable(directory)}: {run.step:,} steps{skipped}; next: alphabar sample "
            f"{printable(directory)}"
        )
        return run


def _follow(loop: Loop, stop: Stop) -> None:
    """Run the loop; run.json tells how it ended."""
    loop.status("running", None)
    try:
        with progress(loop.run.config.run.steps, "step", loop.run.step) as bar:
            loop.follow(bar, stop)
    except AlphabarError as error:
        loop.status(STATES.get(type(error), "failed"), error.exit_code)
        raise
    except KeyboardInterrupt:
        loop.status("preempted", INTERRUPTED)
        raise
    except Exception as error:
        raise loop.crashed(error) from error
    loop.finish()


def _set_aside(directory: Path) -> None:
    """Keep an old run under another name: starting over must not delete work.

    Raises:
        StorageError: if the folder is no run of ours.
    """
    if any(directory.iterdir()) and not (directory / "config.toml").exists() and not checkpoint.steps(directory):
        raise StorageError(f"{printable(directory)}: is no run, so --fresh leaves it alone; give another --out")
    old = storage.unused(directory.with_name(f"{directory.name}.old"))
    with storage.Lock(directory), storage.storage_errors(directory):
        storage.rename(directory, old)
    say(f"note         the run that was there is now {printable(old)}")


def _check_images(images: Images, directory: Path) -> None:
    """Raise DataError where the images are not those that the run began with."""
    file = directory / INVENTORY
    with storage.storage_errors(file):
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
        _check_environment(state, run, newest, conditions)
        pass_over(directory, newest, "damaged")
        return state
    if checkpoint.steps(directory):
        raise CheckpointError(f"{printable(directory)}: no checkpoint is intact; --fresh starts over and keeps these")
    return {}


def _check_environment(state: dict[str, Any], run: Run, newest: Path, conditions: Conditions) -> None:
    """Say, or refuse where conditions are strict, that another machine or version goes on with the run."""
    differing = changes(state.get("environment", {}), environment(run.device))
    if differing and conditions.strict:
        raise CheckpointError(
            f"{printable(newest)}: made with other {differing}; without --strict-resume the run goes on, but not "
            "bitwise the same"
        )
    if differing:
        log.warning("resuming with other %s: the run goes on, but not bitwise the same", differing)


def _note_repairs(directory: Path) -> None:
    """Say what a crash left half-written in a run folder; both files are put right when training goes on."""
    status, log = directory / "run.json", directory / "metrics.jsonl"
    with storage.storage_errors(directory):
        if log.exists() and log.read_bytes()[-1:] not in (b"", b"\n"):
            say("note         metrics.jsonl ended in half a line, which is left out")
    try:
        if status.exists():
            storage.read_json(status)
    except CheckpointError:
        say("note         run.json was half-written and is written anew")
