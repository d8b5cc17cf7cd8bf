"""What to keep of a run that diverged, and where it can go back to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alphabar.base.errors import CheckpointError, Diverged
from alphabar.base.storage import read_json
from alphabar.data.loader import indices
from alphabar.training import trainer
from alphabar.training.trainer import Run
from alphabar.weights import checkpoint

__all__ = ["last_good", "report"]


def last_good(directory: Path) -> Path | None:
    """The newest intact checkpoint whose last step had a finite loss, or None."""
    for path in checkpoint.steps(directory):
        try:
            checkpoint.verify(path)
        except CheckpointError:
            continue
        if not read_json(path / "state.json").get("skipped_in_a_row", 0):
            return path
    return None


def report(run: Run, error: Diverged, done: str) -> dict[str, Any]:
    """What ``diverged.json`` says: the reason, what was done, and the times and images of each step that failed."""
    first = run.step - run.skipped_in_a_row
    return {
        "step": run.step,
        "reason": str(error),
        "action": done,
        "lr": run.config.optim.lr * run.lr_scale,
        "steps": [_doings(run, step) for step in range(first, run.step)],
    }


def _doings(run: Run, step: int) -> dict[str, Any]:
    """Times and images of one step (0-based), in the order of its batch."""
    places = indices(len(run.images), run.config.run.batch, run.config.seed, step)
    return {
        "step": step + 1,
        "times": trainer.step_times(run, step).tolist(),
        "images": run.images.which(places),
    }
