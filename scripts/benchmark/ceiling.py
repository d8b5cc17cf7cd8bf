"""What the machine can do at most, and how much work a network is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.contestants import CONTESTANTS
from benchmark.spec import Spec

__all__ = ["convolution_rate", "counted", "matrix_rate", "work"]

# (channels in and out, side, images): what the paper's network spends its time on
CONVOLUTIONS = ((128, 32, 8), (256, 16, 8), (256, 32, 8), (256, 8, 32), (512, 16, 8))


def _best_rate(run: Callable[[], object], flops: int, device: str, seconds: float) -> float:
    """The highest rate within ``seconds`` of trying, in FLOP/s."""

    def once() -> float:
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    ends, best = time.perf_counter() + seconds, once()
    while time.perf_counter() < ends:
        best = min(best, once())
    return flops / best


def convolution_rate(dtype: torch.dtype = torch.float32, device: str = "cpu", seconds: float = 1.5) -> float:
    """The fastest 3×3 convolution, channels last, in FLOP/s; ``seconds`` for each of the shapes that are tried."""
    best = 0.0
    for channels, side, batch in CONVOLUTIONS:
        conv = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
        conv = conv.to(memory_format=torch.channels_last)
        x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last)
        with torch.no_grad():
            flops = 2 * 9 * channels * channels * side * side * batch
            best = max(best, _best_rate(lambda conv=conv, x=x: conv(x), flops, device, seconds))
    return best


def matrix_rate(dtype: torch.dtype, device: str, side: int, seconds: float = 2.0) -> float:
    """The product of two square matrices, in FLOP/s."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return _best_rate(lambda: a @ b, 2 * side**3, device, seconds)


def work(spec: Spec) -> dict[str, float]:
    """FLOPs that one more image in the batch is for a contestant of ours, ``forward`` and ``step``, as torch counts.

    Left out is what a batch costs once: the embedding of the one time of a forward pass, the products of the optimiser.
    """
    one, two = (counted(replace(spec, batch=batch)) for batch in (1, 2))
    return {action: two[action] - one[action] for action in one}


def counted(spec: Spec) -> dict[str, float]:
    """FLOPs of a whole batch, of convolutions in their direct form whichever is computed."""
    contestant = CONTESTANTS[spec.contestant](spec)
    found = {}
    for action in ("forward", "step"):
        contestant.net.train(action == "step")
        with patch("alphabar.model.nn.winograd.pays", return_value=False), FlopCounterMode(display=False) as counter:
            contestant.actions[action]()
        found[action] = float(counter.get_total_flops())
    return found
