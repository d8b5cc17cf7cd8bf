"""A tiny model and images for every figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.data.batch import Images
from alphabar.evaluation.figures import Subject
from alphabar.model.denoiser import Denoiser
from alphabar.model.variance import FixedSmall
from alphabar.process.chain import Chain
from alphabar.process.schedules import Linear
from tiny import images, net

T = 24


def small_subject(channels: int = 1, classes: int = 0, *, T: int = T, steps: int | None = None, size: int = 8, **over):
    """A subject of a random network, 24 training and 6 held-out images."""
    schedule = Linear(T=T).build()
    made = net(input_channels=channels, output_channels=channels, num_classes=classes)
    denoiser = Denoiser(
        made.eval().requires_grad_(False), schedule, shape=(channels, size, size), variance=FixedSmall()
    )
    data = images(30, classes, channels)
    if size != 8:
        rng = np.random.default_rng(0)
        data = Images(rng.integers(0, 256, (30, channels, size, size), dtype=np.uint8), None, (), "tiny", "tiny")
    given = {
        "train": data.subset(np.arange(24)),
        "held_out": data.subset(np.arange(24, 30)),
        "n": 6,
        "batch": 4,
        "seed": 5,
    }
    chain = Chain.full(schedule) if steps is None else Chain.spaced(schedule, steps)
    return Subject(denoiser, chain, **{**given, **over})


@pytest.fixture(scope="session")
def subject() -> Subject:
    with torch.random.fork_rng():
        return small_subject()


@pytest.fixture
def make_subject():
    return small_subject
