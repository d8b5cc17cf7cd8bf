"""What a run's last bit depends on beside its settings: a change between two sessions is said, not hidden."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from alphabar.base.version import __version__
from alphabar.model.nn.norm_silu import norm_silu_library
from alphabar.model.nn.winograd_native import winograd

__all__ = ["WITHOUT_COMPILER", "changes", "environment"]

WITHOUT_COMPILER = "torch's"  # what the network is made of where ours could not be compiled


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, processor and threads of this process, as JSON values."""
    operators = {}
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        processor = f"{platform.machine()} {capability}"
        if capability.startswith("AVX"):
            compiled = winograd() is not None and norm_silu_library() is not None
            operators["operators"] = "compiled" if compiled else WITHOUT_COMPILER
    return {
        "alphabar": __version__,
        "torch": torch.__version__,
        "device": device.type,
        "processor": processor,
        "threads": torch.get_num_threads(),
        **operators,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """``torch 2.13.0 → 2.14.1, threads 2 → 1``: what differs, or an empty string."""
    differing = [name for name in now if before.get(name, now[name]) != now[name]]
    return ", ".join(f"{name} {before[name]} → {now[name]}" for name in differing)
