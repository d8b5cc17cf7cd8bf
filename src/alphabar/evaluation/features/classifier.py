"""A small classifier of the user's own images: features that fit the data, and an Inception Score that means something.

Inception was trained on photographs; of digits it says little. Such a network takes a minute or two to train, is kept
in the cache, and every number made with it names its hash.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from alphabar.base import storage
from alphabar.base.cache import cache_folder
from alphabar.base.errors import CheckpointError, ConfigError, DataError, printable
from alphabar.base.rng import derive, stream
from alphabar.data.batch import Images, split
from alphabar.evaluation.features.base import Features
from alphabar.weights.checkpoint import load_weights
from alphabar.weights.foreign import read_state

__all__ = [
    "NAME",
    "Classifier",
    "Progress",
    "classifier_folder",
    "known_classifiers",
    "open_classifier",
    "train_classifier",
]

FORMAT = 1
FEATURES = 128
BATCH = 128
RATE = 3e-3
MAX_CHANNELS = 4096
NAME = re.compile(r"\w[\w.-]{0,63}")


class _Net(nn.Module):
    """Four 3×3 convolutions, the second and third of stride 2 where the image is large enough; mean over pixels."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        strides = (1, 2 if side >= 12 else 1, 2, 1)
        widths = (channels, 16, 32, 64, FEATURES)
        layers: list[nn.Module] = []
        for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [
                nn.Conv2d(narrow, wide, 3, stride, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 128] and logits [B, K] of images [B, C, H, W] in [−1, 1]."""
        features = self.body(x).mean((2, 3))
        return features, self.head(features)


@dataclass(frozen=True)
class _Facts:
    """What ``classifier.json`` says beside the weights."""

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    trained_on: str
    fingerprint: str
    images: int
    accuracy: float
    seconds: float


class Classifier:
    """A trained classifier as a :class:`~alphabar.evaluation.features.base.FeatureNet`: 128 features and its logits."""

    def __init__(self, name: str, facts: _Facts, net: nn.Module, sha256: str) -> None:
        self.name = f"classifier {name}"
        self.facts = facts
        self.sha256 = sha256
        channels, height, width = facts.shape
        self.resize = f"bilinear with antialias to {height}x{width}"
        self._net = net.eval().requires_grad_(False)
        self._channels, self._size = channels, (height, width)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features float32 [B, 128] and logits float32 [B, K] of ``images`` uint8 [B, C, H, W].

        Raises:
            DataError: if they have another number of channels.
        """
        if images.shape[1] != self._channels:
            raise DataError(
                f"{self.name}: got images of {images.shape[1]} channels, it was trained on {self._channels}; "
                "choose other --features"
            )
        x = images.to(torch.float32) / 127.5 - 1
        if x.shape[-2:] != self._size:
            x = functional.interpolate(x, self._size, mode="bilinear", antialias=True)
        return Features(*self._net(x))


class Progress(NamedTuple):
    """How training goes: steps done of all of them, and the loss of the last."""

    step: int
    steps: int
    loss: float


def classifier_folder(name: str) -> Path:
    """Where the classifier ``name`` is kept."""
    return cache_folder() / "classifiers" / name


def known_classifiers() -> list[str]:
    """The names of all classifiers in the cache."""
    folder = classifier_folder("")
    return sorted(p.name for p in folder.iterdir() if (p / "manifest.json").exists()) if folder.is_dir() else []


def train_classifier(name: str, images: Images, *, seed: int = 0, epochs: int | None = None) -> Iterator[Progress]:
    """Train on the labels of ``images`` and keep the result under ``name``, replacing one of that name.

    Adam with a one-cycle rate, random shifts of a sixteenth of the image, cross-entropy. A tenth of the images (at
    most 5,000) is held out and gives the accuracy that the classifier carries. Without ``epochs`` it sees every image
    ten times, but at least 150,000 and at most 300,000 of them in all.

    Raises:
        DataError: if the images have no labels, fewer than two classes, or are too few.
        StorageError: if the disk refuses.
    """
    where = printable(images.name)
    if images.labels is None or len(images.class_names) < 2:
        raise DataError(f"{where}: a classifier needs images of at least 2 classes; give labels or class folders")
    if len(images) < 20:
        raise DataError(f"{where}: {len(images)} images are too few to train a classifier; need at least 20")
    train, test = split(images, seed, max(1, min(len(images) // 10, 5000)))
    epochs = max(1, round(min(max(10 * len(train), 150_000), 300_000) / len(train))) if epochs is None else epochs
    net = _new_net(images, seed)
    began = time.monotonic()
    yield from _fit(net, train, epochs, seed)
    net.eval()
    facts = _Facts(
        images.shape,
        images.class_names,
        images.name,
        images.fingerprint,
        len(train),
        _accuracy(net, test),
        time.monotonic() - began,
    )
    _keep(name, facts, net)


def _new_net(images: Images, seed: int) -> _Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "classifier"))
        net = _Net(images.shape[0], min(images.shape[1:]), len(images.class_names))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fit(net: _Net, train: Images, epochs: int, seed: int) -> Iterator[Progress]:
    batch = min(BATCH, max(8, len(train) // 8))
    per_epoch = len(train) // batch
    steps = epochs * per_epoch
    optimizer = torch.optim.Adam(net.parameters(), RATE, weight_decay=1e-5)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    net.train()
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = stream(seed, "classifier order", epoch).permutation(len(train))
        some = train.gather(order[place * batch : (place + 1) * batch].numpy())
        assert some.y is not None
        x = _shifted(some.x, stream(seed, "classifier shift", step).randint(0, 2**31, [2]))
        loss = functional.cross_entropy(net(x)[1], some.y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        yield Progress(step + 1, steps, loss.item())


def _shifted(images: Tensor, numbers: Tensor) -> Tensor:
    """The batch in [−1, 1], moved by up to a sixteenth of its size; the border is repeated."""
    x = images.to(torch.float32) / 127.5 - 1
    most = round(min(x.shape[-2:]) / 16)
    if not most:
        return x
    down, right = (int(n) % (2 * most + 1) for n in numbers)
    height, width = x.shape[-2:]
    padded = functional.pad(x, (most,) * 4, mode="replicate")
    return padded[:, :, down : down + height, right : right + width]


@torch.no_grad()
def _accuracy(net: nn.Module, test: Images) -> float:
    right = 0
    for start in range(0, len(test), BATCH):
        some = test.gather(np.arange(start, min(start + BATCH, len(test))))
        assert some.y is not None
        right += int((net(some.x.to(torch.float32) / 127.5 - 1)[1].argmax(1) == some.y).sum())
    return right / len(test)


def _keep(name: str, facts: _Facts, net: nn.Module) -> None:
    for tensor in net.state_dict().values():
        if not math.isfinite(float(tensor.double().sum())):
            raise DataError(f"{printable(facts.trained_on)}: the classifier diverged; check the images and labels")
    weights = {key: value.contiguous() for key, value in net.state_dict().items()}
    with storage.commit_directory(classifier_folder(name)) as folder:
        storage.write_bytes(folder / "weights.safetensors", safetensors.torch.save(weights))
        described = {
            "format": FORMAT,
            **dataclasses.asdict(facts),
            "sha256": storage.sha256(folder / "weights.safetensors"),
        }
        storage.write_bytes(folder / "manifest.json", json.dumps(described, indent=1).encode())


def open_classifier(name: str) -> Classifier:
    """The classifier kept under ``name``.

    Raises:
        ConfigError: if there is none.
        CheckpointError: if its files are damaged or of another format.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"features: {printable(name)!r} is no name of a classifier; use letters, digits, '-', '_', '.'"
        )
    folder = classifier_folder(name)
    if not (folder / "manifest.json").exists():
        known = known_classifiers()
        have = f" (there are {printable(', '.join(known))})" if known else ""
        raise ConfigError(
            f"features: no classifier {printable(name)!r} yet{have}; train one: alphabar classifier SOURCE --name "
            f"{printable(name)}"
        )
    described = storage.read_json(folder / "manifest.json")
    if not isinstance(described, dict) or described.pop("format", None) != FORMAT:
        raise CheckpointError(f"{printable(folder)}: not a classifier of this alphabar; train it again")
    try:
        wanted = described.pop("sha256")
        shape, class_names = tuple(described.pop("shape")), tuple(described.pop("class_names"))
        facts = _Facts(shape=shape, class_names=class_names, **described)
        channels, height, width = (operator.index(n) for n in facts.shape)
        if not (1 <= channels <= MAX_CHANNELS and height >= 1 and width >= 1 and isinstance(wanted, str)):
            raise ValueError("sizes or hash")
        net = _Net(channels, min(height, width), len(facts.class_names))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(folder)}: damaged description; train the classifier again") from error
    state, sha256 = read_state(folder / "weights.safetensors", wanted)
    load_weights(net, state, printable(folder))
    return Classifier(name, facts, net.to(memory_format=torch.channels_last), sha256)  # type: ignore[call-overload]
