"""The pixels themselves as features: nothing to download, sensitive to every shift."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from torch.nn import functional

from alphabar.evaluation.features.base import Features

__all__ = ["Pixels"]

LARGEST_SIDE = 32


class Pixels:
    """x/255 of every pixel and channel, [C·H·W]; larger images are averaged to a longest side of 32 first."""

    name = "pixels"
    sha256 = hashlib.sha256(b"alphabar pixels 1, longest side 32").hexdigest()
    resize = "areas averaged to a longest side of 32, smaller images as they are"

    def __call__(self, images: Tensor) -> Features:
        """Features float32 [B, C·H·W] of ``images`` uint8 [B, C, H, W]."""
        x = images.to(torch.float32) / 255
        height, width = x.shape[-2:]
        longest = max(height, width)
        if longest > LARGEST_SIDE:
            size = [max(1, round(side * LARGEST_SIDE / longest)) for side in (height, width)]
            x = functional.interpolate(x, size, mode="area")
        return Features(x.flatten(1), None)
