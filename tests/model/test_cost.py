"""The closed forms of what a network call costs, against counts of what the operations really make."""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import alphabar as ab
import tiny
from alphabar.data.batch import Images
from alphabar.model.cost import (
    flops_per_image,
    images_at_once,
    memory_per_image,
    memory_per_image_trained,
    without_values,
)
from alphabar.model.nn.unet import CIFAR10, LSUN256
from alphabar.samplers.generate import frames
from alphabar.training import trainer
from alphabar.training.room import OF_WEIGHTS


@pytest.fixture(autouse=True)
def direct_convolutions(monkeypatch):
    """What Winograd's form holds beside inputs and outputs is bounded, and no part of what an image takes."""
    monkeypatch.setattr("alphabar.model.nn.winograd.pays", lambda *given: False)


class Held(TorchDispatchMode):
    """Adds up the storages that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.release, storage._cdata, storage.nbytes())
        return made

    def release(self, key, size):
        self.known.discard(key)
        self.now -= size


def held(config: ab.UNetConfig, batch: int, size: tuple[int, int]) -> int:
    """The most bytes at a time while PLMS, which remembers most, makes so many images in a few hops."""
    torch.manual_seed(0)
    net = ab.UNet(**dataclasses.asdict(config)).eval()
    denoiser = ab.Denoiser(net, SCHEDULE, shape=(config.input_channels, *size), variance=ab.FixedSmall())
    counter = Held()
    with torch.no_grad(), counter:
        for _ in frames(denoiser, ab.samplers.PLMS(), ab.Chain.spaced(SCHEDULE, 6), range(batch)):
            pass
    return counter.most


SCHEDULE = ab.schedules.Linear().build()
SMALL = ab.UNetConfig(base_channels=16, base_channels_multiples=(1, 2), apply_attention=(False, False), norm_groups=8)


NETWORKS = pytest.mark.parametrize(
    ("changed", "size"),
    [
        ({}, (32, 32)),
        ({"base_channels_multiples": (1, 1, 2), "apply_attention": (False, True, False)}, (64, 32)),
        ({"pad_input": True, "base_channels_multiples": (1, 1, 1, 1), "apply_attention": 4 * (False,)}, (33, 35)),
        ({"patch_size": 4}, (64, 96)),
        ({"patch_size": 8}, (64, 64)),
        ({"base_channels_multiples": (4, 2), "num_res_blocks": 1}, (32, 32)),
        ({"base_channels_multiples": (1,), "apply_attention": (False,), "num_res_blocks": 1}, (32, 32)),
        ({"apply_attention": (True, True)}, (32, 32)),
        ({"num_res_blocks": 4, "input_channels": 5, "output_channels": 5}, (32, 32)),
    ],
    ids=str,
)


@NETWORKS
def test_memory_per_image(changed, size):
    """Never much below what one more image holds, or a batch of "half of the memory" may exceed all; nor far above."""
    config = dataclasses.replace(SMALL, **changed)
    # the difference of two batches has no weights, embeddings or kept transforms in it
    one_more = held(config, 3, size) - held(config, 2, size)
    assert 0.95 * one_more <= memory_per_image(config, *size) <= 1.6 * one_more


def held_in_training(config: ab.UNetConfig, batch: int, size: tuple[int, int], *, checkpointing: bool) -> int:
    """The most bytes at a time in the second step of a run, which has the moments of the first."""
    pixels = np.zeros((batch, config.input_channels, *size), np.uint8)
    settings = {"batch": batch, "activation_checkpointing": checkpointing}
    run = trainer.build(tiny.config(net=config, data={"held_out": 0}, run=settings), Images(pixels, None, (), "", ""))
    steps, counter = trainer.fit(run), Held()
    next(steps)
    with counter:
        next(steps)
    return counter.most


@NETWORKS
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("channel_dropout", [False, True])
def test_memory_per_image_trained(changed, size, checkpointing, channel_dropout):
    config = dataclasses.replace(SMALL, **changed, channel_dropout=channel_dropout)
    small, large = (held_in_training(config, batch, size, checkpointing=checkpointing) for batch in (6, 12))
    estimate = memory_per_image_trained(config, *size, checkpointing=checkpointing)
    assert 0.9 * (large - small) / 6 <= estimate <= 1.4 * (large - small) / 6


@pytest.mark.parametrize(("config", "side", "measured"), [(CIFAR10, 32, 7.35e6), (LSUN256, 256, 335.5e6)])
def test_memory_of_the_papers_networks(config, side, measured):
    """As the forward pass was counted on tensors without content, attention aside; `make bench` has 10 MB for 32×32."""
    assert memory_per_image(config, side, side) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("free", "images"), [(0, 1), (1.9, 1), (2, 1), (4, 2), (15.9, 4), (16, 8), (1e6, 2**18)])
def test_half_of_the_free_memory_in_powers_of_two(free, images, monkeypatch):
    each = memory_per_image(SMALL, 32, 32)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=math.ceil(free * each), free=0))
    assert images_at_once(denoiser_of(SMALL)) == max(1, 2 ** int(math.log2(max(1, free // 2)))) == images


def test_other_devices_and_other_networks_take_any_number(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    assert images_at_once(denoiser_of(SMALL)) == 1
    assert images_at_once(denoiser_of(SMALL).to("meta")) is None
    assert images_at_once(ab.Denoiser(lambda x, t: x, SCHEDULE, shape=(1, 4, 4))) is None


def denoiser_of(config):
    return ab.Denoiser(ab.UNet(**dataclasses.asdict(config)), SCHEDULE, shape=(config.input_channels, 32, 32))


def test_the_papers_network_costs_what_it_is_known_to():
    denoiser = ab.Denoiser(without_values(CIFAR10), ab.schedules.Linear().build(), shape=(3, 32, 32))
    assert flops_per_image(denoiser) == pytest.approx(12.44e9, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_what_training_holds_of_the_weights(optimizer):
    """A step of one image on a network whose weights are most of it, from the building on."""
    config = dataclasses.replace(SMALL, base_channels=64, base_channels_multiples=(1, 2))
    images = Images(np.zeros((1, 3, 8, 8), np.uint8), None, (), "", "")
    settings = tiny.config(net=config, data={"held_out": 0}, optim={"optimizer": optimizer}, run={"batch": 1})
    counter = Held()
    with counter:
        run = trainer.build(settings, images)
        for _ in itertools.islice(trainer.fit(run), 2):
            pass
    weights = 4 * sum(p.numel() for p in run.denoiser.parameters())
    held = counter.most - memory_per_image_trained(config, 8, 8, checkpointing=False)
    assert 0.65 * OF_WEIGHTS * weights < held < 1.05 * OF_WEIGHTS * weights
