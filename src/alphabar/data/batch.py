"""The data contract: uint8 images [N, C, H, W], an optional label each, and what was done to get them.

Nothing here is in the model's range [-1, 1]; that conversion happens once, at the border where a batch meets the
network.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.base.pixels import Units
from alphabar.data.memory import allocate, rows_per_chunk
from alphabar.data.order import permutation
from alphabar.data.survey import Survey

__all__ = ["Batch", "Images", "split"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images on their way to the network: ``x`` uint8 [B, C, H, W], ``y`` int64 [B] or None without labels."""

    x: Tensor
    y: Tensor | None


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images, decoded. The arrays are read-only; :meth:`gather` gives tensors that may be written.

    ``pixels`` is uint8 [N, C, H, W] (a :class:`numpy.memmap` above 1 GiB), ``labels`` int64 [N]
    in 0..len(class_names)-1 or None, ``class_names`` empty without labels. ``name`` is for people; ``spec`` is the
    text that :func:`~alphabar.data.sources.open_source` takes to open the same source again; ``notes`` says in one
    line each what was converted or ignored. ``reduced`` says that files held more than 8 bits per channel, so that
    likelihoods of these pixels are not those of the data; ``units`` then says what 0 and 255 stand for, where that is
    known. ``survey`` describes the files, where there are any; ``numbers`` are the places of the images in the source
    (None: in order). Raises :class:`DataError` where the arrays break this contract.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]
    name: str
    spec: str
    notes: tuple[str, ...] = ()
    reduced: bool = False
    units: Units | None = None
    survey: Survey | None = None
    numbers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            self._refuse(f"pixels are {pixels.dtype} {list(pixels.shape)}; they must be uint8 [N, C, H, W]")
        if 0 in pixels.shape[1:]:
            self._refuse(f"pixels are {list(pixels.shape)}; [N, C, H, W] needs at least one channel and no empty side")
        if labels is None:
            if self.class_names:
                self._refuse("class names without labels; give both or neither")
        elif labels.dtype != np.int64 or labels.shape != pixels.shape[:1]:
            self._refuse(f"labels are {labels.dtype} {list(labels.shape)}; they must be int64 [{len(pixels)}]")
        elif len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            self._refuse(
                f"labels go from {labels.min()} to {labels.max()}; "
                f"{len(self.class_names)} class names allow 0 to {len(self.class_names) - 1}"
            )
        object.__setattr__(self, "pixels", _read_only(pixels))
        object.__setattr__(self, "labels", None if labels is None else _read_only(labels))

    def _refuse(self, reason: str) -> None:
        raise DataError(f"{printable(self.name)}: {reason}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over the shape, all pixels and all labels: equal sets have equal fingerprints."""
        digest = hashlib.blake2b(repr((self.pixels.shape, self.labels is None)).encode(), digest_size=16)
        rows = rows_per_chunk(self.pixels.shape)
        for start in range(0, len(self), rows):
            digest.update(np.ascontiguousarray(self.pixels[start : start + rows]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels.astype("<i8")).data)
        return digest.hexdigest()

    def gather(self, indices: npt.NDArray[np.int64]) -> Batch:
        """The images at ``indices`` (int64 [B], each in 0..N-1) copied into a :class:`Batch`."""
        chosen = self._checked(indices)
        labels = None if self.labels is None else torch.from_numpy(self.labels[chosen])
        return Batch(torch.from_numpy(np.ascontiguousarray(self.pixels[chosen])), labels)

    def subset(self, indices: npt.NDArray[np.int64]) -> Images:
        """A copy with the images at ``indices`` (integers [M], each in 0..N-1) in that order, same classes and spec.

        Raises :class:`ConfigError` for indices outside 0..N-1.
        """
        chosen = self._checked(indices)
        pixels = allocate((len(chosen), *self.shape))
        rows = rows_per_chunk(pixels.shape)
        for start in range(0, len(chosen), rows):
            pixels[start : start + rows] = self.pixels[chosen[start : start + rows]]
        labels = None if self.labels is None else self.labels[chosen]
        survey = self.survey
        if survey is not None:
            survey = dataclasses.replace(survey, files=tuple(survey.files[n] for n in chosen.tolist()))
        numbers = tuple(chosen.tolist() if self.numbers is None else (self.numbers[n] for n in chosen.tolist()))
        return dataclasses.replace(self, pixels=pixels, labels=labels, survey=survey, numbers=numbers)

    def which(self, indices: npt.NDArray[np.int64]) -> list[str | int]:
        """Where the images at ``indices`` (integers [M], each in 0..N-1) come from: file, or number in the source."""
        places = self._checked(indices).tolist()
        if self.survey is not None and self.survey.files:
            return [self.survey.files[n] for n in places]
        return places if self.numbers is None else [self.numbers[n] for n in places]

    def _checked(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise ConfigError(f"indices are {chosen.dtype} {list(chosen.shape)}; they must be integers [M]")
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise ConfigError(f"indices go from {chosen.min()} to {chosen.max()}; allowed are 0 to {len(self) - 1}")
        return chosen.astype(np.int64, copy=False)


def _read_only(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


def split(images: Images, seed: int, held_out: int) -> tuple[Images, Images]:
    """(train, held-out): two disjoint sets that together are ``images``, drawn at random, each in random order.

    Which image goes where is a pure function of (seed, N). ``held_out`` is in 0..N-1; :class:`ConfigError` otherwise.
    """
    if not 0 <= held_out < len(images):
        raise ConfigError(
            f"held_out = {held_out}: {printable(images.name)} has {len(images)} images; allowed are 0 to "
            f"{len(images) - 1}"
        )
    order = permutation(len(images), seed, "split")
    return images.subset(order[held_out:]), images.subset(order[:held_out])
