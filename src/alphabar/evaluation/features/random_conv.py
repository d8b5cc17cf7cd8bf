"""A convolutional network with fixed random weights: local structure as features, nothing to download."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor
from torch.nn import functional

from alphabar.base.rng import stream
from alphabar.evaluation.features.base import Features

__all__ = ["RandomConv"]

WIDTHS = (32, 64, 128)
KERNEL = 3


class RandomConv:
    """Three 3×3 convolutions with random weights, each followed by ReLU and halving; mean and deviation of every
    channel after each of them: 448 features, for any size and number of channels.

    Distances in such features order generators much as trained ones do where these do not apply (small, grey or
    many-channel images); they say nothing about what people see. Fixed by (seed 0, number of channels).
    """

    name = "random-conv"
    sha256 = hashlib.sha256(b"alphabar random-conv 1, widths 32 64 128, seed 0").hexdigest()
    resize = "none"

    def __init__(self) -> None:
        self._weights: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features float32 [B, 448] of ``images`` uint8 [B, C, H, W]."""
        x = images.to(torch.float32) / 127.5 - 1
        found = []
        for weight in self._layers(x.shape[1]):
            x = functional.relu(functional.conv2d(x, weight, padding=KERNEL // 2))
            pixels = x.flatten(2)
            found += [pixels.mean(2), pixels.std(2, unbiased=False)]
            x = functional.avg_pool2d(x, 2, ceil_mode=True)
        return Features(torch.cat(found, 1), None)

    def _layers(self, channels: int) -> list[Tensor]:
        if channels not in self._weights:
            inputs = (channels, *WIDTHS[:-1])
            self._weights[channels] = [
                stream(0, "random-conv", channels, layer).randn((wide, narrow, KERNEL, KERNEL))
                * math.sqrt(2 / (narrow * KERNEL**2))
                for layer, (narrow, wide) in enumerate(zip(inputs, WIDTHS, strict=True))
            ]
        return self._weights[channels]
