"""What ``quality_per_minute.py`` trains on, and the features that judge it.

- ``mnist``: FILE is ``mnist.npz``; a classifier of MNIST judges.
- ``cifar10``: FILE is a folder with two archives of class folders, ``*train.tar.xz`` and ``*test.tar.xz``.
- ``digits``: those that come with alphabar, 8×8; a classifier of them judges.
- ``pink``: the textures of one hue of ``colour_drift.py``, 16×16.

Where no classifier is at hand, ``random-conv`` judges: features that were trained on nothing.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from colour_drift import SIDE, textures
from mnist32 import padded

import alphabar as ab
from alphabar.base.errors import ConfigError
from alphabar.data.batch import Images
from alphabar.data.order import permutation

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """Images to train on, images of the same kind that nobody trains on, and the features that judge samples.

    Features that are not in the registry are those of a classifier of that name, trained on the source of ``train``.
    """

    train: Images
    test: Images
    features: str


def _file(given: Path | None, name: str) -> Path:
    if given is None or not given.exists():
        raise ConfigError(f"--source: got {given}, {name} needs the place of its data (see scripts/quality_data.py)")
    return given


def _mnist(given: Path | None, folder: Path) -> Task:
    train, test = padded(_file(given, "mnist"), folder)
    return Task(ab.open_source(str(train)), ab.open_source(str(test)), "mnist")


def _cifar10(given: Path | None, folder: Path) -> Task:
    parts = []
    for name in ("train", "test"):
        target = folder / f"cifar10-{name}"
        if not target.exists():
            archives = sorted(_file(given, "cifar10").glob(f"*{name}.tar.xz"))
            if len(archives) != 1:
                raise ConfigError(f"--source: {given} has {len(archives)} files *{name}.tar.xz, cifar10 needs one")
            (archive,) = archives
            unpacked = target.with_suffix(".part")
            with tarfile.open(archive) as opened:
                opened.extractall(unpacked, filter="data")
            unpacked.rename(target)
        parts.append(ab.open_source(str(target)))
    return Task(*parts, features="random-conv")


def _digits(given: Path | None, folder: Path) -> Task:
    images = ab.open_source("digits")
    order = permutation(len(images), "quality")
    return Task(images.subset(order[300:]), images.subset(order[:300]), "digits")


def _pink(given: Path | None, folder: Path) -> Task:
    files = folder / "pink.npz", folder / "pink-test.npz"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, file in enumerate(files):
        if not file.exists():
            np.savez_compressed(file, images=textures("pink", 1000, SIDE, seed))
    return Task(*(ab.open_source(str(file)) for file in files), features="random-conv")


TASKS: dict[str, Callable[[Path | None, Path], Task]] = {
    "mnist": _mnist,
    "cifar10": _cifar10,
    "digits": _digits,
    "pink": _pink,
}
