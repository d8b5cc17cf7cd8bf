"""Inception-v3 as the Fréchet inception distance uses it: 299×299 images to 2048 features and 1008 logits.

The network is that of Szegedy et al. 2015 (arXiv:1512.00567, §6 and Figures 5–7, 10) as the TensorFlow graph of
2015-12-05 has it, with which Heusel et al. 2017 defined the FID. It differs from the paper's in three ways: average
pools divide by the number of pixels under the window (the padding does not count), the last block takes the maximum
where the others take the average, and there are 1008 outputs. Parameters are called as in torchvision's ``Inception3``,
so the weights that the PyTorch ports of the FID share load by name.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.base.cache import cache_folder
from alphabar.base.errors import CheckpointError, ConfigError, DataError, printable
from alphabar.evaluation.features.base import Features
from alphabar.weights.checkpoint import load_weights
from alphabar.weights.foreign import read_state

__all__ = ["Inception", "InceptionV3", "open_inception"]

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299
# part of every fingerprint: a change to what happens between uint8 and the network must change this text
PREPROCESSING = "inception/2: grey to RGB, x/255, bilinear 299x299 half-pixel no antialias, 2x-1; logits without bias"
PART = 16  # images at a time in the network; its widest layer holds 5.5 MB of each

average = functools.partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
maximum = functools.partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
halve = functools.partial(functional.max_pool2d, kernel_size=3, stride=2)


@dataclass(frozen=True)
class Layer:
    """One convolution: name, width, kernel (height, width). Stride 2 goes without padding, stride 1 keeps the size."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


@dataclass(frozen=True)
class Branch:
    """A pool or nothing, then ``chain`` one after the other, then ``fork`` side by side on what comes out."""

    chain: tuple[Layer, ...] = ()
    fork: tuple[Layer, ...] = ()
    pool: Callable[[Tensor], Tensor] | None = None


def branch(*chain: Layer, fork: tuple[Layer, ...] = (), pool: Callable[[Tensor], Tensor] | None = None) -> Branch:
    """A :class:`Branch` in the order in which it is read."""
    return Branch(chain, fork, pool)


def block_35(pooled: int) -> tuple[Branch, ...]:
    """At 35×35 (Figure 5): 64 + 64 + 96 + ``pooled`` channels."""
    return (
        branch(Layer("branch1x1", 64)),
        branch(Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        branch(Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3))),
        branch(Layer("branch_pool", pooled), pool=average),
    )


def to_17() -> tuple[Branch, ...]:
    """35×35 → 17×17 (Figure 10): 384 + 96 channels and those of the input."""
    return (
        branch(Layer("branch3x3", 384, (3, 3), 2)),
        branch(
            Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), Layer("branch3x3dbl_3", 96, (3, 3), 2)
        ),
        branch(pool=halve),
    )


def block_17(inner: int) -> tuple[Branch, ...]:
    """At 17×17 (Figure 6 with n = 7): 4 · 192 channels, ``inner`` inside the two factorised branches."""
    return (
        branch(Layer("branch1x1", 192)),
        branch(Layer("branch7x7_1", inner), Layer("branch7x7_2", inner, (1, 7)), Layer("branch7x7_3", 192, (7, 1))),
        branch(
            Layer("branch7x7dbl_1", inner),
            Layer("branch7x7dbl_2", inner, (7, 1)),
            Layer("branch7x7dbl_3", inner, (1, 7)),
            Layer("branch7x7dbl_4", inner, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        branch(Layer("branch_pool", 192), pool=average),
    )


def to_8() -> tuple[Branch, ...]:
    """17×17 → 8×8: 320 + 192 channels and those of the input."""
    return (
        branch(Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, (3, 3), 2)),
        branch(
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ),
        branch(pool=halve),
    )


def block_8(pool: Callable[[Tensor], Tensor]) -> tuple[Branch, ...]:
    """At 8×8 (Figure 7): 320 + 2 · 384 + 2 · 384 + 192 channels."""
    return (
        branch(Layer("branch1x1", 320)),
        branch(
            Layer("branch3x3_1", 384),
            fork=(Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        branch(
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            fork=(Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        branch(Layer("branch_pool", 192), pool=pool),
    )


BLOCKS: Mapping[str, tuple[Branch, ...]] = {
    "Mixed_5b": block_35(32),
    "Mixed_5c": block_35(64),
    "Mixed_5d": block_35(64),
    "Mixed_6a": to_17(),
    "Mixed_6b": block_17(128),
    "Mixed_6c": block_17(160),
    "Mixed_6d": block_17(160),
    "Mixed_6e": block_17(192),
    "Mixed_7a": to_8(),
    "Mixed_7b": block_8(average),
    "Mixed_7c": block_8(maximum),
}


class Conv(nn.Module):
    """Convolution without bias, batch normalisation with stored statistics (ε = 1e-3), ReLU."""

    def __init__(self, channels: int, layer: Layer) -> None:
        super().__init__()
        height, width = layer.kernel
        padding = (height // 2, width // 2) if layer.padded and layer.stride == 1 else 0
        self.conv = nn.Conv2d(channels, layer.width, layer.kernel, layer.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, channels, H, W] → [B, width, H', W'] ≥ 0."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches over one input, joined along the channels in their order."""

    def __init__(self, channels: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.width = 0
        for each in branches:
            inside = channels
            for layer in each.chain:
                self.add_module(layer.name, Conv(inside, layer))
                inside = layer.width
            for layer in each.fork:
                self.add_module(layer.name, Conv(inside, layer))
            self.width += sum(layer.width for layer in each.fork) or inside

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, channels, H, W] → [B, self.width, H', W']."""
        joined = []
        for each in self.branches:
            h = x if each.pool is None else each.pool(x)
            for layer in each.chain:
                h = self.get_submodule(layer.name)(h)
            joined += [self.get_submodule(layer.name)(h) for layer in each.fork] or [h]
        return torch.cat(joined, dim=1)


class InceptionV3(nn.Module):
    """``net(x float [B, 3, 299, 299] in [−1, 1]) → (features [B, 2048] ≥ 0, logits [B, 1008])``, in evaluation mode.

    Other sizes from 75×75 work too and mean something else. The features are the averages over the last 8×8 positions;
    the FID and the KID compare those. The logits are those of the classifier, before the softmax and with ``fc.bias``.
    The code of Salimans et al. 2016 leaves the bias out of the inception score, which comes out lower then (10.95
    instead of 11.23 on CIFAR-10's test images, openai/improved-gan issue 39).
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, Layer("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = Conv(32, Layer("", 32, (3, 3), padded=False))
        self.Conv2d_2b_3x3 = Conv(32, Layer("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = Conv(64, Layer("", 80))
        self.Conv2d_4a_3x3 = Conv(80, Layer("", 192, (3, 3), padded=False))
        width = 192
        for name, branches in BLOCKS.items():
            block = Mixed(width, branches)
            self.add_module(name, block)
            width = block.width
        self.fc = nn.Linear(width, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of ``x``."""
        h = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        h = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halve(h)))
        h = halve(h)
        for name in BLOCKS:
            h = self.get_submodule(name)(h)
        features = h.mean(dim=(2, 3))
        return features, self.fc(features)


def prepare(images: Tensor) -> Tensor:
    """What the network sees of ``images`` uint8 [B, 1 or 3, H, W]: float32 [B, 3, 299, 299] in [−1, 1].

    In this order, as pytorch-fid does it: x/255; bilinear interpolation at the centres of the new pixels (output pixel
    i reads the input at (i + ½)·H/299 − ½, held at the borders) without a low-pass filter, so larger images alias;
    2x − 1. TensorFlow's own graph, and torch-fidelity, sample at i·H/299 and end with (x − 128)/128 instead: their
    features are others, and of 299×299 images still slightly so.

    Raises:
        DataError: if they are no such images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise DataError(
            f"features inception: got {images.dtype} {list(images.shape)}, need uint8 [B, 1 or 3, H, W]; "
            "take --features pixels or random-conv for other channels"
        )
    # contiguous, and three channels, before the interpolation: other layouts take code that rounds differently
    x = images.expand(-1, 3, -1, -1).contiguous().to(torch.float32) / 255
    x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)
    return 2 * x - 1


class Inception:
    """The features of FID, KID and the inception score: a :class:`~alphabar.evaluation.features.base.FeatureNet`.

    Attributes:
        name: ``inception``, or ``inception (unknown weights …)`` where the file is not the published one.
        sha256: of the weight file's SHA-256 and the version of the preprocessing.
        resize: how images become 299×299 RGB.
    """

    resize = (
        f"bilinear to {SIDE}x{SIDE}, half-pixel centres, no antialiasing, as pytorch-fid does; "
        "grey repeated to three channels"
    )

    def __init__(self, net: InceptionV3, weights_sha256: str) -> None:
        known = weights_sha256 == SHA256
        self.name = "inception" if known else f"inception (unknown weights {weights_sha256[:12]})"
        self.sha256 = hashlib.sha256(f"{PREPROCESSING}\n{weights_sha256}".encode()).hexdigest()
        self._net = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Features:
        """Features float32 [B, 2048] and logits float32 [B, 1008], without their bias.

        ``images`` are uint8 [B, 1 or 3, H, W].

        Raises:
            DataError: if the images are of another kind.
            CheckpointError: if the weights give values that are not finite.
        """
        with torch.no_grad():
            seen = [self._net(prepare(part)) for part in torch.split(images, PART)]
        # the Inception Score of the literature leaves the last bias out: 10.95 instead of 11.23 on CIFAR-10
        found = Features.cat([Features(values, logits - self._net.fc.bias) for values, logits in seen])
        if not torch.isfinite(found.values).all():
            raise CheckpointError(f"features {self.name}: not finite; the weights are damaged: fetch the file again")
        return found


def open_inception(path: Path | None = None) -> Inception:
    """The network with the weights in ``path``, or with the published ones from the cache folder.

    Args:
        path: a file that :func:`~alphabar.weights.foreign.read_state` reads and that has the parameters of
            :class:`InceptionV3`. Counters ``*.num_batches_tracked`` may be missing, an auxiliary classifier
            ``AuxLogits.*`` may be there; neither is used. None is ``inception/pt_inception-2015-12-05-6726825d.pth`` in
            :func:`~alphabar.base.cache.cache_folder`, which must be the published file to the last bit.

    Raises:
        ConfigError: if there is no file in the cache folder; nothing is ever downloaded.
        CheckpointError: if the file is missing, damaged, needs code, or holds other parameters.
    """
    if path is None:
        path = cache_folder() / "inception" / FILE
        if not path.exists():
            raise ConfigError(
                f"features inception: no weights at {printable(path)}; put {FILE} there (95.6 MB, from "
                "github.com/mseitzer/pytorch-fid releases, fid_weights), or use --features pixels|random-conv|digits"
            )
        state, digest = read_state(path, SHA256)
    else:
        state, digest = read_state(path)
    with torch.random.fork_rng(devices=[]):
        net = InceptionV3()
    counters = {name: value for name, value in net.state_dict().items() if name.endswith(".num_batches_tracked")}
    used = {name: value for name, value in state.items() if not name.startswith("AuxLogits.")}
    load_weights(net, used | counters, printable(path))
    return Inception(net, digest)
