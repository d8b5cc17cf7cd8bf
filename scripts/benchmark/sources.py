"""Where the peers are: packages in an environment of their own, and two repositories at pinned commits."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmark.race import Failed

__all__ = ["PACKAGES", "REPOSITORIES", "checkout", "environment_python"]

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-peers"
PACKAGES = ("diffusers", "denoising-diffusion-pytorch")
REPOSITORIES = {
    "pytorch-ddpm": ("https://github.com/w86763777/pytorch-ddpm", "f804ccbd58a758b07f79a3b9ecdfb1beb67258f6"),
    "guided-diffusion": ("https://github.com/openai/guided-diffusion", "22e0df8183507e13a7813f8d38d51b072ca1e67c"),
}


def environment_python() -> Path:
    """The peers' interpreter.

    Raises:
        Failed: if ``make bench`` has not made it.
    """
    python = HOME / "bin" / "python"
    if not python.exists():
        raise Failed("the peers' environment is missing; `make bench` makes it")
    return python


def checkout(name: str, given: Path | None) -> Path:
    """The folder that holds a repository: below ``given``, else cloned once below the peers' environment.

    Raises:
        Failed: if it is not there and cannot be cloned, or is at another commit than the pinned one.
    """
    url, commit = REPOSITORIES[name]
    parent = given if given is not None else HOME / "src"
    folder = parent / name
    if not folder.exists():
        if given is not None:
            raise Failed(f"{name}: no folder of that name in the given sources")
        cloned = subprocess.run(["git", "clone", "--quiet", url, str(folder)], capture_output=True, text=True)
        if cloned.returncode:
            raise Failed(f"{name}: could not be cloned; give a folder that holds it with --peers-source")
        subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit], check=True)
    if (folder / ".git").exists():
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        if head.stdout.strip() != commit:
            raise Failed(f"{name}: is at commit {head.stdout.strip()[:12]}, measured is {commit[:12]}")
    return folder
