"""How much memory may still be taken."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]
import torch

__all__ = ["available_memory"]


def available_memory(device: torch.device) -> int | None:
    """Bytes that new tensors on ``device`` may take without anything being swapped or refused; None if unknown.

    A processor's memory is handed out before it is there: who takes too much is killed when it is touched, without an
    exception that could be caught. A limit of a container that is lower than the machine's memory is not seen.
    """
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return None
