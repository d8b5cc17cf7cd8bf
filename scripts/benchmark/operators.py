"""Operators that have two forms, torch's and our own: is the one that is chosen the faster one?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.base.allocator import keep_freed_memory
from alphabar.model.nn.norm_silu import norm_silu
from alphabar.model.nn.winograd import pays, winograd, winograd_conv

__all__ = ["CONVOLUTIONS", "NORMS", "convolutions", "norms"]

# images, channels in and out, side: those of the paper's networks at small batches, and of those for small images
CONVOLUTIONS = (
    (8, 128, 128, 32),
    (8, 256, 128, 32),
    (8, 384, 128, 32),
    (8, 256, 256, 32),
    (8, 256, 256, 16),
    (8, 512, 256, 16),
    (8, 256, 256, 8),
    (8, 256, 256, 4),
    (32, 256, 256, 8),
    (32, 256, 256, 4),
    (2, 128, 128, 64),
    (2, 512, 512, 16),
    (32, 16, 16, 32),
    (32, 48, 16, 32),
    (32, 32, 32, 16),
    (32, 96, 32, 16),
    (32, 64, 64, 8),
    (32, 128, 64, 8),
    (128, 32, 32, 8),
    (128, 64, 64, 4),
    (128, 192, 64, 4),
    (32, 128, 128, 8),
    (8, 256, 256, 7),
    (1, 32, 32, 16),
)
# images, channels, groups, side, of the same networks
NORMS = (
    (8, 128, 32, 32),
    (8, 384, 32, 32),
    (8, 256, 32, 16),
    (8, 512, 32, 8),
    (32, 16, 4, 32),
    (32, 48, 4, 32),
    (32, 32, 8, 16),
    (32, 64, 16, 8),
    (128, 32, 8, 8),
)
Form = Callable[..., Tensor]


def _forward(form: Form, inputs: Sequence[Tensor], g: Tensor) -> None:
    with torch.no_grad():
        form(*inputs)


def _step(form: Form, inputs: Sequence[Tensor], g: Tensor) -> None:
    wanted = [tensor.detach().requires_grad_() for tensor in inputs]
    torch.autograd.grad(form(*wanted), wanted, g)


def _in_turns(forms: Mapping[str, Form], inputs: Sequence[Tensor], rounds: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds of every form, forward and with backward."""
    keep_freed_memory()
    g, row = torch.randn_like(next(iter(forms.values()))(*inputs)), {}
    for action, run in (("forward", _forward), ("step", _step)):
        times: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(rounds + 1):
            for name, form in forms.items():
                began = time.perf_counter()
                run(form, inputs, g)
                if number:  # the first warms up
                    times[name].append(1000 * (time.perf_counter() - began))
        row[action] = {name: statistics.median(several) for name, several in times.items()}
    return row


def _without_ours(form: Form) -> Form:
    def direct(*inputs: Tensor) -> Tensor:
        with patch("alphabar.model.nn.norm_silu.norm_silu_library", return_value=None):
            return form(*inputs)

    return direct


def _images(n: int, channels: int, side: int) -> Tensor:
    return torch.randn(n, channels, side, side).to(memory_format=torch.channels_last)


def convolutions(shapes: Sequence[tuple[int, int, int, int]] = CONVOLUTIONS, rounds: int = 12) -> list[dict[str, Any]]:
    """Both forms of a 3×3 convolution, and what the rule chooses; the direct one alone where ours is not compiled."""
    forms = {"direct": lambda *given: functional.conv2d(*given, padding=1), "ours": winograd_conv}
    if winograd() is None:
        del forms["ours"]
    rows = []
    for shape in shapes:
        n, channels, out_channels, side = shape
        x, weight = _images(n, channels, side), torch.randn(out_channels, channels, 3, 3) / 20
        weight = weight.to(memory_format=torch.channels_last)
        bias = torch.randn(out_channels)
        times = _in_turns(forms, (x, weight, bias), rounds)
        chosen = "ours" if pays(x, weight, bias) else "direct"
        rows.append({"shape": shape, **{action: {**row, "chosen": chosen} for action, row in times.items()}})
    return rows


def norms(shapes: Sequence[tuple[int, int, int, int]] = NORMS, rounds: int = 12) -> list[dict[str, Any]]:
    """SiLU of a GroupNorm of x + shift, of torch's operators and as it is computed."""
    rows = []
    for shape in shapes:
        n, channels, groups, side = shape
        ours = partial(norm_silu, nn.GroupNorm(groups, channels), nn.SiLU())
        forms = {"direct": _without_ours(ours), "ours": ours}
        times = _in_turns(forms, (_images(n, channels, side), torch.randn(n, channels)), rounds)
        rows.append({"shape": shape, **{action: {**row, "chosen": "ours"} for action, row in times.items()}})
    return rows
