"""How much memory may still be taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

__all__ = ["available_memory"]

MOUNTED = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available_memory(device: torch.device) -> int | None:
    """Bytes of a processor's memory that nobody holds; None for other devices, which refuse what they have not.

    A processor's memory is handed out before it is there: who takes too much is killed when it is touched, and there is
    no exception to catch. Linux's control groups, and so containers, may allow less than the machine has. What this
    process keeps for later counts as held.
    """
    if device.type != "cpu":
        return None
    return max(0, min([int(psutil.virtual_memory().available), *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """What each control group that this process is in leaves it: its limit less what cannot be taken back."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2
            root, limit, used, idle = MOUNTED, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = MOUNTED / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        # a container may see its own group as the root, under the name that it has outside
        folder = root / place.lstrip("/")
        for group in [folder, *folder.parents]:
            try:
                facts = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                yield int((group / limit).read_text()) - int((group / used).read_text()) + int(facts[idle])
            except (OSError, ValueError, KeyError):  # not there, or "max": no limit
                pass
            if group == root:
                break
