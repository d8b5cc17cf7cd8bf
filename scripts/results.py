"""What the scripts of this folder share: where results go, and what they say of the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from alphabar.base.version import __version__

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
        "alphabar": __version__,
        "commit": _commit(),
        "command": " ".join(["python", f"scripts/{Path(sys.argv[0]).name}", *map(_without_folders, sys.argv[1:])]),
    }


def _commit() -> str:
    """The commit of this checkout, with a plus where files differ from it; empty outside of one."""
    here = RESULTS.parent

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "--short=12", "HEAD") + (
        "+" if git("status", "--porcelain", "--", ":/src", ":/scripts") else ""
    )


def _without_folders(argument: str) -> str:
    return Path(argument).name if "/" in argument else argument


def write(
    name: str,
    title: str,
    facts: dict[str, Any],
    lines: list[str],
    folder: Path = RESULTS,
    command: str | None = None,
) -> None:
    """``<name>.json`` and ``.md`` in ``docs/results`` or another folder; the page begins with the machine.

    A page that several calls have filled says by which ``command``, where that of the last one tells only of a part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    where = machine()
    (folder / f"{name}.json").write_text(json.dumps({"machine": where, **facts}, indent=1) + "\n", encoding="utf-8")
    head = [
        f"# {title}",
        "",
        f"{where['date']} · {where['processor']}, {where['cores']} cores, {where['threads']} threads · "
        f"Python {where['python']}, torch {where['torch']}, alphabar {where['alphabar']} at {where['commit']} · "
        f"`{command or where['command']}`",
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    print("\n".join([*head, *lines]))
