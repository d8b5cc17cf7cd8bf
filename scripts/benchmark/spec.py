"""What a worker is told: which contestant, on what images, in which setting."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SHAPES", "Spec"]

# the images (C, H, W) of each network that is measured
SHAPES = {"cifar10": (3, 32, 32), "lsun256": (3, 256, 256), "mnist": (1, 32, 32), "digits": (1, 8, 8)}


@dataclass(frozen=True)
class Spec:
    """One contestant in one setting.

    Attributes:
        contestant: a name in ``contestants.CONTESTANTS``.
        model: a name in ``SHAPES``: the network, and the size of its images.
        batch: images per forward pass and per training step.
        settings: any of ``channels_last``, ``compile``, ``graphs`` (compiled, with CUDA graphs), ``bf16``, ``flash``,
            ``checkpointing`` (of activations); none is the contestant as it ships.
        threads: threads on the CPU.
        device: ``cpu`` or ``cuda``.
        size: side of the images where it is not the model's.
        net: fields of the network that differ from the model's (ours only).
        hops: steps of one trajectory, of those contestants that sample.
        sources: folder with the peers that are no packages.
    """

    contestant: str
    model: str = "cifar10"
    batch: int = 8
    settings: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    size: int | None = None
    net: dict[str, Any] = field(default_factory=dict)
    hops: int = 1
    sources: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = SHAPES[self.model]
        return (channels, self.size or height, self.size or width)

    @property
    def label(self) -> str:
        """The contestant and its settings, for tables."""
        return f"{self.contestant} ({', '.join(self.settings)})" if self.settings else self.contestant

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        facts = json.loads(text)
        return cls(**{**facts, "settings": tuple(facts["settings"])})

    def place(self, net: nn.Module) -> nn.Module:
        """The network on the device, in the layout of the setting."""
        net = net.to(self.device)
        return net.to(memory_format=torch.channels_last) if "channels_last" in self.settings else net

    def compile(self, *nets: nn.Module) -> None:
        """Compile in place where the setting asks for it."""
        for net in nets:
            if "graphs" in self.settings:
                net.compile(mode="reduce-overhead")
            elif "compile" in self.settings:
                net.compile()

    def images(self) -> Tensor:
        """A batch in [-1, 1], on the device in the layout of the setting: float32 [B, C, H, W]."""
        x = torch.rand(self.batch, *self.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        layout = torch.channels_last if "channels_last" in self.settings else torch.contiguous_format
        return x.to(self.device, memory_format=layout)

    def times(self) -> Tensor:
        """Times 0 … 999: int64 [B]."""
        return torch.randint(0, 1000, (self.batch,), generator=torch.Generator().manual_seed(0)).to(self.device)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Where the network runs: autocast in the setting ``bf16``."""
        return torch.autocast(self.device, torch.bfloat16, enabled="bf16" in self.settings)
