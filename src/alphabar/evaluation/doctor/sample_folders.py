"""The images that ``alphabar sample`` wrote into a run, and how they were made according to their manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphabar.base import storage
from alphabar.base.errors import CheckpointError
from alphabar.evaluation.doctor.pixel_facts import PixelFacts
from alphabar.samplers import SAMPLERS

__all__ = ["SampleFolder", "read_folders"]

MOST_FOLDERS = 12
MOST_IMAGES = 256


@dataclass(frozen=True, eq=False)
class SampleFolder:
    """One folder below ``samples/``: its name, its ``manifest.json`` and the facts of its images."""

    name: str
    manifest: Mapping[str, Any]
    facts: PixelFacts

    @property
    def times(self) -> tuple[int, ...]:
        """The times that were visited, or nothing where the manifest does not say."""
        times = self.manifest.get("times")
        if not isinstance(times, list) or len(times) < 2 or not all(isinstance(t, int) for t in times):
            return ()
        return tuple(times)

    @property
    def sampler(self) -> str:
        """``ancestral``, ``ddim``, … or nothing."""
        rule = self.manifest.get("sampler")
        return str(rule.get("kind", "")) if isinstance(rule, dict) else ""

    @property
    def order(self) -> int:
        """The order of its sampler, 1 where that is not known."""
        return max(1, SAMPLERS[self.sampler].order) if self.sampler in SAMPLERS else 1

    @property
    def needs_variance(self) -> bool:
        """Whether its sampler draws with the σ² of the model."""
        return self.sampler in SAMPLERS and SAMPLERS[self.sampler].needs_variance


def read_folders(run: Path, shape: tuple[int, int, int]) -> list[SampleFolder]:
    """The newest twelve finished folders of samples of this ``shape`` in ``run``, the newest first."""
    manifests = sorted((run / "samples").glob("*/manifest.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    found = []
    for file in manifests[:MOST_FOLDERS]:
        try:
            manifest = storage.read_json(file)
        except CheckpointError:
            continue
        if not isinstance(manifest, dict) or not manifest.get("complete", True):
            continue
        images = _images(file.parent, shape)
        if images is not None:
            found.append(SampleFolder(file.parent.name, manifest, PixelFacts.of(images)))
    return found


def _images(folder: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """uint8 [N, C, H, W], or None where no image of this shape can be read."""
    array = folder / "samples.npy"
    found: list[np.ndarray[Any, Any]] = []
    try:
        if array.exists():
            found = list(np.load(array, allow_pickle=False)[:MOST_IMAGES])
        for file in sorted(folder.glob("[0-9]*.png"))[:MOST_IMAGES]:
            with Image.open(file, formats=["PNG"]) as image:
                pixels = np.asarray(image)
            found.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    kept = [image for image in found if image.shape == shape and image.dtype == np.uint8]
    return torch.from_numpy(np.stack(kept)) if kept else None
