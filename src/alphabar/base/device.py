"""Where networks run unless something else is asked for."""

from __future__ import annotations

import torch

__all__ = ["default_device"]


def default_device() -> torch.device:
    """A GPU if torch has one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
