"""The trained model that a command was pointed at, read and verified once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from alphabar.base.device import default_device
from alphabar.base.errors import ConfigError, printable
from alphabar.model.denoiser import Denoiser
from alphabar.weights import checkpoint

__all__ = ["Opened", "open_model"]

WEIGHTS = {"ema": "ema", "raw": "net"}


class Opened(NamedTuple):
    """A denoiser ready to sample, the artefact ``folder`` it is from, and the SHA-256 of its weights."""

    folder: Path
    denoiser: Denoiser
    weights_sha256: str


def open_model(path: Path, weights: str = "ema") -> Opened:
    """The model at ``path`` (a run, one of its steps, a saved model) with its ``ema`` or ``raw`` weights.

    Raises:
        ConfigError: for other weights.
        CheckpointError: if nothing there loads.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"--weights: got {printable(weights)!r}, need one of {', '.join(WEIGHTS)}")
    folder, file = checkpoint.find(path), WEIGHTS[weights]
    denoiser = checkpoint.read(folder, weights=file, device=default_device())
    return Opened(folder, denoiser, checkpoint.listed_sha256(folder, f"{file}.safetensors"))
