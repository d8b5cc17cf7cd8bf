"""``alphabar inspect``: the model card."""

from __future__ import annotations

from pathlib import Path

from alphabar.base.errors import CheckpointError, printable
from alphabar.cli.card import model_card
from alphabar.cli.console import say
from alphabar.weights import checkpoint

__all__ = ["run"]


def run(path: Path) -> None:
    """The command."""
    folder = checkpoint.find(path)
    held = checkpoint.weights_in(folder)
    if not held:
        raise CheckpointError(f"{printable(folder)}: holds no weights")
    denoiser = checkpoint.read(folder, weights=held[0])
    say(f"model        {printable(folder)}")
    say(f"weights      {', '.join(held)}, verified against the manifest")
    if (folder / "state.json").exists():
        state = checkpoint.training_state(folder)
        say(f"trained      {state['step']:,} steps (torch {printable(state['torch'])})")
    for line in model_card(denoiser):
        say(line)
