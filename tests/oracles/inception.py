"""Inception-v3 of the FID as one function of a state dict, from a table of its layers; its bilinear resize in numpy.

Written from the paper (Szegedy et al. 2015, Table 1 and Figures 5–7, 10) and what is known of the graph of 2015-12-05:
average pools that do not count the padding, a maximum in the last block, 1008 outputs. Pools are spelled out as the
nine shifts of a window, normalisation as its formula. The names in the table are those of the published weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# A branch is read from left to right: "name width kernel" is a convolution that keeps the size; "valid" after it, one
# without padding; "/2", one with stride 2 and without padding; "avg", "max" and "max/2" are 3×3 pools. What follows "="
# runs side by side on the result. The branches of a block see the same input and are joined in order.
STEM = [
    "Conv2d_1a_3x3 32 3x3 /2, Conv2d_2a_3x3 32 3x3 valid, Conv2d_2b_3x3 64 3x3, max/2, "
    "Conv2d_3b_1x1 80 1x1, Conv2d_4a_3x3 192 3x3 valid, max/2"
]
FIGURE_5 = [
    "branch1x1 64 1x1",
    "branch5x5_1 48 1x1, branch5x5_2 64 5x5",
    "branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3, branch3x3dbl_3 96 3x3",
    "avg, branch_pool {} 1x1",
]
FIGURE_10 = [
    "branch3x3 384 3x3 /2",
    "branch3x3dbl_1 64 1x1, branch3x3dbl_2 96 3x3, branch3x3dbl_3 96 3x3 /2",
    "max/2",
]
FIGURE_6 = [
    "branch1x1 192 1x1",
    "branch7x7_1 {0} 1x1, branch7x7_2 {0} 1x7, branch7x7_3 192 7x1",
    "branch7x7dbl_1 {0} 1x1, branch7x7dbl_2 {0} 7x1, branch7x7dbl_3 {0} 1x7, branch7x7dbl_4 {0} 7x1, "
    "branch7x7dbl_5 192 1x7",
    "avg, branch_pool 192 1x1",
]
REDUCTION = [
    "branch3x3_1 192 1x1, branch3x3_2 320 3x3 /2",
    "branch7x7x3_1 192 1x1, branch7x7x3_2 192 1x7, branch7x7x3_3 192 7x1, branch7x7x3_4 192 3x3 /2",
    "max/2",
]
FIGURE_7 = [
    "branch1x1 320 1x1",
    "branch3x3_1 384 1x1 = branch3x3_2a 384 1x3, branch3x3_2b 384 3x1",
    "branch3x3dbl_1 448 1x1, branch3x3dbl_2 384 3x3 = branch3x3dbl_3a 384 1x3, branch3x3dbl_3b 384 3x1",
    "{}, branch_pool 192 1x1",
]
NETWORK = [
    ("", STEM, ""),
    ("Mixed_5b.", FIGURE_5, "32"),
    ("Mixed_5c.", FIGURE_5, "64"),
    ("Mixed_5d.", FIGURE_5, "64"),
    ("Mixed_6a.", FIGURE_10, ""),
    ("Mixed_6b.", FIGURE_6, "128"),
    ("Mixed_6c.", FIGURE_6, "160"),
    ("Mixed_6d.", FIGURE_6, "160"),
    ("Mixed_6e.", FIGURE_6, "192"),
    ("Mixed_7a.", REDUCTION, ""),
    ("Mixed_7b.", FIGURE_7, "avg"),
    ("Mixed_7c.", FIGURE_7, "max"),
]
FEATURES, CLASSES = 2048, 1008


def inception(state: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Features [B, 2048] and logits [B, 1008], in float64, of ``x`` [B, 3, H, W] in [−1, 1]."""
    h = x.double()
    for prefix, branches, variant in NETWORK:
        joined = []
        for text in branches:
            chain, _, fork = text.format(variant).partition(" = ")
            inside = h
            for step in chain.split(", "):
                inside = _step(state, prefix, step, inside)
            joined += [_step(state, prefix, step, inside) for step in fork.split(", ")] if fork else [inside]
        h = torch.cat(joined, 1)
    features = h.sum((2, 3)) / (h.shape[2] * h.shape[3])
    return features, features @ state["fc.weight"].double().T + state["fc.bias"].double()


def shapes() -> dict[str, tuple[int, ...]]:
    """Every parameter and statistic of the network with its shape."""
    found: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for prefix, branches, variant in NETWORK:
        outputs = 0
        for text in branches:
            chain, _, fork = text.format(variant).partition(" = ")
            width = inputs
            for name, wide, kernel in _convolutions(chain):
                found |= _tensors(f"{prefix}{name}", width, wide, kernel)
                width = wide
            side_by_side = list(_convolutions(fork))
            for name, wide, kernel in side_by_side:
                found |= _tensors(f"{prefix}{name}", width, wide, kernel)
            outputs += sum(wide for _, wide, _ in side_by_side) or width
        inputs = outputs
    return found | {"fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}


def _convolutions(text: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    for step in filter(None, text.split(", ")):
        if len(step.split()) > 1:
            name, wide, kernel = step.split()[:3]
            height, width = kernel.split("x")
            yield name, int(wide), (int(height), int(width))


def _tensors(name: str, inputs: int, outputs: int, kernel: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.conv.weight": (outputs, inputs, *kernel)} | {
        f"{name}.bn.{kind}": (outputs,) for kind in statistics
    }


def _step(state: Mapping[str, Tensor], prefix: str, step: str, x: Tensor) -> Tensor:
    if step == "max/2":
        return _shifts(x, float("-inf"), 0, 2).amax(0)
    if step == "max":
        return _shifts(x, float("-inf"), 1, 1).amax(0)
    if step == "avg":
        return _shifts(x, 0.0, 1, 1).sum(0) / _shifts(torch.ones_like(x), 0.0, 1, 1).sum(0)
    name, _, kernel, *how = step.split()
    height, width = (int(side) for side in kernel.split("x"))
    weight, gain, shift, mean, var = (
        state[f"{prefix}{name}.{kind}"].double()
        for kind in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    )
    padding = (0, 0) if how else ((height - 1) // 2, (width - 1) // 2)
    x = functional.conv2d(x, weight, stride=2 if how == ["/2"] else 1, padding=padding)
    scale = gain / torch.sqrt(var + 0.001)
    return torch.clamp_min((x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None], 0)


def _shifts(x: Tensor, fill: float, border: int, stride: int) -> Tensor:
    """[9, …]: ``x`` with a border of ``fill``, as each of the nine positions of a 3×3 window sees it."""
    x = functional.pad(x, (border,) * 4, value=fill)
    height, width = x.shape[2] - 2, x.shape[3] - 2
    return torch.stack(
        [x[:, :, i : i + height, j : j + width][:, :, ::stride, ::stride] for i in range(3) for j in range(3)]
    )


def resize(image: np.ndarray, side: int = 299) -> np.ndarray:
    """Bilinear, half-pixel centres, held at the borders, no antialiasing: [C, H, W] → float64 [C, side, side]."""
    for axis in (1, 2):
        old = image.shape[axis]
        centres = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, None)
        low = np.minimum(np.floor(centres).astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = (centres - low).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(low, axis).astype(np.float64) * (1 - part) + image.take(high, axis) * part
    return image
