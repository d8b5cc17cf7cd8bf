"""3×3 convolutions in their two forms: does the rule in ``alphabar.model.nn.winograd`` choose the faster one?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alphabar.base.allocator import keep_freed_memory
from alphabar.model.nn.winograd import pays, winograd_conv

__all__ = ["SHAPES", "measure"]

# images, channels in and out, side: those of the paper's networks at small batches, and of those for small images
SHAPES = (
    (8, 128, 128, 32),
    (8, 256, 128, 32),
    (8, 384, 128, 32),
    (8, 256, 256, 32),
    (8, 256, 256, 16),
    (8, 512, 256, 16),
    (8, 256, 256, 8),
    (32, 256, 256, 8),
    (32, 256, 256, 4),
    (2, 128, 128, 64),
    (2, 512, 512, 16),
    (32, 32, 32, 16),
    (32, 64, 64, 8),
    (32, 128, 64, 8),
    (128, 64, 64, 4),
    (128, 192, 64, 4),
    (32, 128, 128, 8),
    (8, 256, 256, 7),
)
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def _direct(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=1)


FORMS: dict[str, Form] = {"direct": _direct, "winograd": winograd_conv}


def _forward(form: Form, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) -> None:
    with torch.no_grad():
        form(x, weight, bias)


def _step(form: Form, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) -> None:
    form(*(tensor.detach().requires_grad_() for tensor in (x, weight, bias))).backward(g)


def measure(shapes: tuple[tuple[int, int, int, int], ...] = SHAPES, rounds: int = 12) -> list[dict[str, Any]]:
    """Median milliseconds of both forms, in turns, forward and with backward, and what the rule chooses."""
    keep_freed_memory()
    rows = []
    for shape in shapes:
        n, channels, out_channels, side = shape
        x, g = (torch.randn(n, c, side, side).to(memory_format=torch.channels_last) for c in (channels, out_channels))
        weight = (torch.randn(out_channels, channels, 3, 3) / 20).to(memory_format=torch.channels_last)
        bias, row = torch.randn(out_channels), {"shape": shape}
        for action, run in (("forward", _forward), ("step", _step)):
            times: dict[str, list[float]] = {name: [] for name in FORMS}
            for number in range(rounds + 1):
                for name, form in FORMS.items():
                    began = time.perf_counter()
                    run(form, x, weight, bias, g)
                    if number:  # the first warms up
                        times[name].append(1000 * (time.perf_counter() - began))
            with torch.set_grad_enabled(action == "step"):
                row[action] = {name: statistics.median(several) for name, several in times.items()} | {
                    "chosen": "winograd" if pays(x, weight) else "direct"
                }
        rows.append(row)
    return rows
