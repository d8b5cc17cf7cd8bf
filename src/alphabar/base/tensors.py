"""How a coefficient meets an image, and how an image becomes a number.

A coefficient (``Coef``) is a python float, or a float64 tensor [B] that holds one value per image. It keeps its
double precision until :func:`scale` multiplies it into the image; nothing else broadcasts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Coef", "log", "mean_per_image", "scale", "sqrt", "sum_per_image", "to_image"]

Coef = float | Tensor


def to_image(c: Coef, x: Tensor) -> float | Tensor:
    """``c`` in the device and dtype of the images ``x`` [B, ...], shaped [B, 1, ...] if it has a value per image."""
    if isinstance(c, Tensor):
        return c.to(x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
    return c


def scale(x: Tensor, c: Coef) -> Tensor:
    """c·x: the coefficient is rounded to the precision of the images ``x`` [B, ...] here and nowhere earlier."""
    return to_image(c, x) * x


def sqrt(c: Coef) -> Coef:
    """√c."""
    return c.sqrt() if isinstance(c, Tensor) else math.sqrt(c)


def log(c: Coef) -> Coef:
    """ln c, with ln 0 = −∞."""
    if isinstance(c, Tensor):
        return c.log()
    return math.log(c) if c > 0 else -math.inf


def sum_per_image(x: Tensor) -> Tensor:
    """Sum over all but the first axis, in float64: [B, ...] → [B]."""
    wide = x.to(torch.float64) if x.device.type != "mps" else x
    return wide.flatten(1).sum(1)


def mean_per_image(x: Tensor) -> Tensor:
    """Mean over all but the first axis, in the precision of ``x``: [B, ...] → [B]."""
    return x.flatten(1).mean(1)
