"""What figures are made of: a model, the chain to follow, images and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError, DataError
from alphabar.data.batch import Images
from alphabar.evaluation.dataset import dataset_bound, fixed_subset
from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.likelihood import Bound
from alphabar.model.denoiser import Denoiser
from alphabar.model.nn import UNet
from alphabar.process.chain import Chain
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.driver import Sampler

__all__ = ["Recipe", "Subject", "Unavailable"]


class Unavailable(DataError):
    """A figure that cannot be made of this subject."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything a figure may use.

    Attributes:
        denoiser: the model that samples.
        chain: the times that sampling visits.
        train: images the model was trained on, if they are at hand.
        held_out: images it has not seen, if they are at hand.
        sampler: the update rule.
        seed: the first of the seeds of samples, and the seed of all other noise.
        label: the class of every sample of a network with classes; None makes sample i of class i modulo their number.
        n: how many images or samples a measurement takes at most.
        batch: how many images go through the network at once.
        as_trained: the same network with the variance of its training, for the bound; None if ``denoiser`` has it.
    """

    denoiser: Denoiser
    chain: Chain
    train: Images | None = None
    held_out: Images | None = None
    sampler: Sampler = Ancestral()  # noqa: RUF009 - a frozen value
    seed: int = 0
    label: int | None = None
    n: int = 128
    batch: int = 64
    as_trained: Denoiser | None = None

    def __post_init__(self) -> None:
        """Check what would fail far from here."""
        if self.n < 2:
            raise ConfigError(f"n: got {self.n}, need at least 2 images for a mean and its error")
        if not 0 <= self.seed < 2**53:
            raise ConfigError(f"seed: got {self.seed}, need 0 … 2^53")
        if self.label is not None and not 0 <= self.label < max(1, self.classes):
            raise ConfigError(f"label: got {self.label}, the network has {self.classes} classes")
        for images in (self.train, self.held_out):
            if images is None:
                continue
            if images.shape != self.denoiser.shape:
                raise DataError(f"{images.name}: images are {images.shape}, the model makes {self.denoiser.shape}")
            if self.classes and images.labels is not None and len(images.class_names) > self.classes:
                raise DataError(f"{images.name}: {len(images.class_names)} classes, the network has {self.classes}")

    @property
    def T(self) -> int:
        """The number of steps of the schedule."""
        return self.chain.schedule.T

    @property
    def measured(self) -> Denoiser:
        """The model of the bound."""
        return self.as_trained or self.denoiser

    @property
    def some_images(self) -> tuple[Images, str]:
        """Held-out images, or else training images, and the words for them.

        Raises:
            Unavailable: if there are neither.
        """
        for images, words in ((self.held_out, "held-out"), (self.train, "training")):
            if images is not None and len(images):
                return images, words
        raise Unavailable("needs images: give the run that the model is from, or --data SOURCE")

    @property
    def unseen(self) -> Images:
        """Held-out images, at most ``n``, drawn at random.

        Raises:
            Unavailable: if there are none.
        """
        if self.held_out is None or not len(self.held_out):
            raise Unavailable("needs images that the model was not trained on: give --data SOURCE")
        return fixed_subset(self.held_out, self.n)

    @property
    def seen(self) -> Images:
        """The training images.

        Raises:
            Unavailable: if they are not at hand.
        """
        if self.train is None or not len(self.train):
            raise Unavailable("needs the training images: give the run that the model is from")
        return self.train

    @property
    def classes(self) -> int:
        """The number of classes of the network, 0 for one without."""
        net = self.denoiser.net
        return net.config.num_classes if isinstance(net, UNet) else 0

    def seeds(self, count: int) -> list[int]:
        """The seeds of that many samples."""
        return list(range(self.seed, self.seed + count))

    def labels(self, numbers: Sequence[int]) -> Tensor | None:
        """The classes int64 [N] of the samples with these seeds, or None for a network without classes."""
        if not self.classes:
            return None
        return torch.tensor([self.label if self.label is not None else number % self.classes for number in numbers])

    def labels_of(self, images: Images, indices: Sequence[int]) -> Tensor | None:
        """The classes int64 [N] of these images: their own where they have some."""
        if not self.classes:
            return None
        if images.labels is None or self.label is not None:
            return self.labels([self.label or 0] * len(indices))
        return torch.tensor([int(images.labels[i]) for i in indices])

    @cached_property
    def bound(self) -> Bound:
        """The bound of :attr:`unseen` on the full chain, as trained."""
        chain = Chain.full(self.chain.schedule)
        return Bound.cat(list(dataset_bound(self.measured, self.unseen, chain, seed=self.seed, batch=self.batch)))

    @property
    def bound_calls(self) -> int:
        """How many images go through the network for :attr:`bound`."""
        return self.T * (min(self.n, len(self.held_out)) if self.held_out is not None else 0)


@dataclass(frozen=True)
class Recipe:
    """How a figure is made of a subject, and what it costs.

    Attributes:
        make: ``make(subject, **options)``; the options are those of the figure.
        calls: how many images ``make`` sends through the network, the bound left out.
        uses_bound: whether it needs ``subject.bound``, which several figures share.
        shows_images: whether it needs images of 1, 3 or 4 channels, which a picture can show.
    """

    make: Callable[..., Figure]
    calls: Callable[[Subject], int]
    uses_bound: bool = False
    shows_images: bool = True

    def __call__(self, subject: Subject, **options: Any) -> Figure:
        """The figure, with the network in evaluation mode and without gradients.

        Raises:
            Unavailable: if it needs images that the subject does not have, or cannot be shown.
        """
        channels = subject.denoiser.shape[0]
        if self.shows_images and channels not in (1, 3, 4):
            raise Unavailable(f"shows images, and those of {channels} channels have no picture format")
        was_training = subject.denoiser.training
        subject.denoiser.eval()
        try:
            with torch.no_grad():
                return self.make(subject, **options)
        finally:
            subject.denoiser.train(was_training)
