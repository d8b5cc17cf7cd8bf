"""What can be said of a set of images without a network: colours, range, roughness, channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from alphabar.base.errors import DataError
from alphabar.data.batch import Images

__all__ = ["SAME", "Measured", "PixelFacts", "apart", "some_of", "stacked_channels"]

SAME = 2  # grey levels within which two values count as equal: JPEG moves them by as much
TAIL = 0.005
MOST_IMAGES = 2048
MOST_VALUES = 20_000_000


@dataclass(frozen=True)
class Measured:
    """A mean and its standard error."""

    value: float
    error: float

    def beyond(self, other: Measured) -> float:
        """How many standard errors of the difference this lies above ``other``; signed."""
        error = math.hypot(self.error, other.error)
        gap = self.value - other.value
        return gap / error if error > 0 else 0.0 if gap == 0 else float("inf") * (1 if gap > 0 else -1)


@dataclass(frozen=True, eq=False)
class PixelFacts:
    """Statistics of N ≥ 1 images, in grey levels of 255; errors are over images, which are independent.

    Attributes:
        n: N.
        shape: (C, H, W).
        mean: of each channel.
        deviation: of the pixels of each channel.
        low: 0.5 % of the pixels are below it.
        high: 0.5 % of the pixels are above it.
        values: the different pixel values that occur.
        constant: share of images without any contrast.
        grey: share of images whose three channels are equal; 0 for other than three channels.
        roughness: variance of the white noise that would explain the second differences between neighbours.
        histogram: float64 [C, 256], shares.
    """

    n: int
    shape: tuple[int, int, int]
    mean: tuple[Measured, ...]
    deviation: tuple[Measured, ...]
    low: int
    high: int
    values: tuple[int, ...]
    constant: float
    grey: float
    roughness: Measured
    histogram: Tensor

    @staticmethod
    def of(images: Tensor) -> PixelFacts:
        """The facts of ``images`` uint8 [N, C, H, W].

        Raises:
            DataError: if there are none.
        """
        if not len(images):
            raise DataError("statistics: got no images, need at least one")
        x = images.double()
        counts = torch.stack([torch.bincount(images[:, c].flatten().long(), minlength=256) for c in range(x.shape[1])])
        share = counts.sum(0).double().cumsum(0) / counts.sum()
        spread = images.flatten(1).amax(1).int() - images.flatten(1).amin(1).int()
        return PixelFacts(
            n=len(images),
            shape=(x.shape[1], x.shape[2], x.shape[3]),
            mean=tuple(_measured(x[:, c].mean((1, 2))) for c in range(x.shape[1])),
            deviation=tuple(_deviation(x[:, c]) for c in range(x.shape[1])),
            low=int((share < TAIL).sum()),
            high=int((share <= 1 - TAIL).sum()),
            values=tuple(counts.sum(0).nonzero().flatten().tolist()),
            constant=float((spread <= SAME).double().mean()),
            grey=_grey(images),
            roughness=_roughness(x),
            histogram=counts.double() / counts.sum(1, keepdim=True),
        )


def _measured(values: Tensor) -> Measured:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")
    return Measured(float(values.mean()), error)


def _deviation(x: Tensor) -> Measured:
    """The deviation of all pixels [N, H, W]; its error by the influence of each image (the delta method)."""
    means, squares = x.mean((1, 2)), x.square().mean((1, 2))
    mean, variance = float(means.mean()), float(squares.mean() - means.mean() ** 2)
    deviation = max(variance, 0.0) ** 0.5
    influence = squares - 2 * mean * means
    error = _measured(influence).error
    return Measured(deviation, error / (2 * deviation) if deviation > 0 else error)


def _grey(images: Tensor) -> float:
    if images.shape[1] != 3:
        return 0.0
    apart = (images.amax(1).int() - images.amin(1).int()).flatten(1).amax(1)
    return float((apart <= SAME).double().mean())


def _roughness(x: Tensor) -> Measured:
    """White noise of variance v gives a mean square of 36 v under this filter (Immerkær 1996), and planes give 0."""
    if min(x.shape[2:]) < 3:
        return Measured(0.0, float("inf"))
    kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=x.dtype)
    filtered = functional.conv2d(x.flatten(0, 1)[:, None], kernel[None, None])
    return _measured((filtered.square().flatten(1).mean(1) / 36).reshape(x.shape[0], -1).mean(1))


def some_of(images: Images) -> Tensor:
    """At most 2,048 of ``images``, and fewer large ones, spread over the set: uint8 [N, C, H, W]."""
    most = min(len(images), MOST_IMAGES, max(16, MOST_VALUES // math.prod(images.shape)))
    rows = np.unique(np.linspace(0, len(images) - 1, most).astype(np.int64))
    return images.gather(rows).x


def apart(a: PixelFacts, b: PixelFacts) -> float:
    """How far two sets differ in their grey levels: of any channel's histogram (Wasserstein), or in roughness."""
    moved = (a.histogram.cumsum(1) - b.histogram.cumsum(1)).abs().sum(1).max()
    rough = abs(max(a.roughness.value, 0) ** 0.5 - max(b.roughness.value, 0) ** 0.5)
    return max(float(moved), float(rough))


def stacked_channels(images: Tensor) -> float | None:
    """How unlike the patterns within triples are, over how unlike they are between, of uint8 [N, 1, H, W] in order.

    Unlike is 1 − |r| with the correlation r of the pixels of two successive images: channels of one picture show the
    same pattern, brighter, darker or reversed. Far below 1 where red, green and blue of each picture were stored as
    three images. None for fewer than four triples or other than one channel.
    """
    if images.shape[1] != 1 or len(images) < 12:
        return None
    x = images.double().flatten(1)
    x = functional.normalize(x - x.mean(1, keepdim=True), dim=1)
    unlike = 1 - (x[1:] * x[:-1]).sum(1).abs()
    between = unlike[2::3].median()
    within = torch.cat([unlike[0::3], unlike[1::3]]).median()
    return float(within / between) if between > 0 else None
