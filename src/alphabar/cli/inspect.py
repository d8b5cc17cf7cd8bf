"""``alphabar inspect``: how a run stands, and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.base.errors import CheckpointError, printable
from alphabar.base.storage import read_json
from alphabar.cli.card import model_card
from alphabar.cli.console import say
from alphabar.weights import checkpoint

__all__ = ["run", "state_of_run"]


def run(path: Path) -> None:
    """The command."""
    if (path / "run.json").exists():
        say(f"state        {state_of_run(path)}")
    folder = checkpoint.find(path)
    held = checkpoint.weights_in(folder)
    if not held:
        raise CheckpointError(f"{printable(folder)}: holds no weights")
    denoiser = checkpoint.read(folder, weights=held[0])
    say(f"model        {printable(folder)}")
    say(f"weights      {', '.join(held)}, verified against the manifest")
    if (folder / "state.json").exists():
        state = checkpoint.training_state(folder)
        versions = read_json(folder / "manifest.json")
        say(f"trained      {state['step']:,} steps (torch {printable(versions['torch'])})")
    for line in model_card(denoiser):
        say(line)


def state_of_run(directory: Path) -> str:
    """One line on how a run stands, from its run.json and from whether somebody holds its lock."""
    holder = storage.holder(directory)
    try:
        facts: dict[str, Any] = read_json(directory / "run.json")
        state, step = facts["state"], f"step {facts['step']:,} of {facts['steps']:,}"
        code = facts["exit_code"]
    except (CheckpointError, KeyError, TypeError, ValueError):
        return "run.json cannot be read; the same command as before continues the run and writes it anew"
    again = "the same command continues it"
    if holder is not None:
        return f"training now ({printable(holder)}), at {step} when last saved"
    if state == "running":
        return f"ended without a word (killed, or the power went) after {step}; {again}"
    if state == "finished":
        return f"finished, {step}"
    return f"{printable(state)} at {step}, exit code {code}; {again}"
