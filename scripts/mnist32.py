"""MNIST as the scripts take it: 32×32, as networks need sides that halve, and the classifier that judges samples."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from alphabar.base import storage
from alphabar.cli.main import main as alphabar
from alphabar.evaluation.features.classifier import known_classifiers

__all__ = ["need_classifier", "padded"]


def padded(source: Path, folder: Path) -> tuple[Path, Path]:
    """Training and test images of ``source`` in files in ``folder``, with a frame of two black pixels."""
    files = folder / "mnist32.npz", folder / "mnist32-test.npz"
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        with np.load(source) as data:
            for file, part in zip(files, ("train", "test"), strict=True):
                images = np.pad(data[f"{part}_images"], ((0, 0), (2, 2), (2, 2)))
                packed = io.BytesIO()
                np.savez_compressed(packed, images=images, labels=data[f"{part}_labels"])
                storage.write_file(file, packed.getvalue())  # in one piece: several scripts may start at once
    return files


def need_classifier(source: str, name: str = "mnist") -> None:
    """Train a classifier on the images of ``source``, unless there is one of that ``name``: a few minutes."""
    if name not in known_classifiers():
        code = alphabar(["classifier", source, "--name", name])
        assert code == 0, f"training the classifier ended with {code}"
