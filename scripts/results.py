"""What the scripts of this folder share: where results go, and what they say of the machine."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

__all__ = ["RESULTS", "machine", "write"]

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def machine() -> dict[str, Any]:
    """Date, processor, cores, versions and the command: nothing that names a host or a path."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": " ".join(["python", f"scripts/{Path(sys.argv[0]).name}", *map(_without_folders, sys.argv[1:])]),
    }


def _without_folders(argument: str) -> str:
    return Path(argument).name if "/" in argument else argument


def write(name: str, title: str, facts: dict[str, Any], lines: list[str]) -> None:
    """``docs/results/<name>.json`` and ``.md``, which begins with the machine."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": where, **facts}, indent=1) + "\n", encoding="utf-8")
    head = [
        f"# {title}",
        "",
        f"{where['date']} · {where['processor']}, {where['cores']} cores, {where['threads']} threads · "
        f"Python {where['python']}, torch {where['torch']} · `{where['command']}`",
        "",
    ]
    (RESULTS / f"{name}.md").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join([*head, *lines]))
