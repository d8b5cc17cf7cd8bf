"""One server and one undisturbed run of each length for all tests here, in memory where there is room for files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability.runner import Forks, Toy

MEMORY = "/dev/shm"


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Syncing costs most of a save on a disk, and nothing in memory."""
    root = Path(tempfile.mkdtemp(prefix="alphabar-reliability-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def toy(forks, place) -> Toy:
    """Sixty steps, twelve saves."""
    (place / "toy").mkdir()
    return Toy(forks, place / "toy")


@pytest.fixture(scope="session")
def short(forks, place) -> Toy:
    """Twenty steps, four saves."""
    (place / "short").mkdir()
    return Toy(forks, place / "short", steps=20, save=5, preview=10)
