"""``alphabar inspect``: the model card."""

from __future__ import annotations

from pathlib import Path

from alphabar.base.errors import printable
from alphabar.base.storage import read_json
from alphabar.cli.card import model_card
from alphabar.cli.console import say
from alphabar.weights import checkpoint

__all__ = ["run"]


def run(path: Path) -> None:
    """The command."""
    folder = checkpoint.find(path)
    held = checkpoint.weights_in(folder)
    say(f"model        {printable(folder)}")
    say(f"weights      {', '.join(held)}, verified against the manifest")
    if (folder / "state.json").exists():
        state = read_json(folder / "state.json")
        say(f"trained      {state['step']:,} steps (torch {state['torch']})")
    for line in model_card(checkpoint.read(folder, weights=held[0])):
        say(line)
