"""How much memory may still be taken."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]
import torch

__all__ = ["available_memory"]


def available_memory(device: torch.device) -> int | None:
    """Bytes of a processor's memory that nobody holds; None for other devices, which refuse what they have not.

    A processor's memory is handed out before it is there: who takes too much is killed when it is touched, and there is
    no exception to catch. A limit of a container below the machine's memory is not seen; what this process keeps for
    later counts as held.
    """
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None
