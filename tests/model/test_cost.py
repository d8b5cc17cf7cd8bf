"""The closed forms of what a network call costs, against counts of what the operations really make."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import alphabar as ab
from alphabar.model.cost import flops_per_image, memory_per_image
from alphabar.model.nn.unet import CIFAR10, LSUN256


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


def held(config: ab.UNetConfig, batch: int, height: int, width: int) -> int:
    with torch.device("meta"):
        net = ab.UNet(**dataclasses.asdict(config)).eval()
        x, t = torch.zeros(batch, config.input_channels, height, width), torch.zeros(batch, dtype=torch.int64)
    counter = Held()
    with torch.no_grad(), counter:
        net(x, t)
    return counter.most


@pytest.mark.parametrize(
    ("config", "height", "width"),
    [
        (CIFAR10, 32, 32),
        (LSUN256, 256, 256),
        (ab.UNetConfig(), 64, 64),
        (ab.UNetConfig(patch_size=4), 64, 96),
        (ab.UNetConfig(pad_input=True), 50, 61),
        (ab.UNetConfig(base_channels_multiples=(4, 2, 1, 1), num_res_blocks=1), 64, 64),
    ],
    ids=["cifar10", "lsun256", "review", "patches", "padded", "wide at the top"],
)
def test_memory_per_image(config, height, width):
    # the difference of two batches has no weights, embeddings or kept transforms in it
    one_more = held(config, 3, height, width) - held(config, 2, height, width)
    assert memory_per_image(config, height, width) == pytest.approx(one_more, rel=0.02)


def test_the_papers_network_costs_what_it_is_known_to():
    with torch.device("meta"):
        net = ab.UNet(**dataclasses.asdict(CIFAR10))
    denoiser = ab.Denoiser(net, ab.schedules.Linear().build(), shape=(3, 32, 32))
    assert flops_per_image(denoiser) == pytest.approx(12.44e9, rel=1e-3)
