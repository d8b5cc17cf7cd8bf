"""What a feature network is: pixels in, one vector per image out, and a fingerprint that says which network it was."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["FeatureNet", "Features"]


class Features(NamedTuple):
    """What a network says about N images, on the CPU: ``values`` float32 [N, D] and, of a classifier, ``logits``
    float32 [N, K] before the softmax (None where there are no classes).
    """

    values: Tensor
    logits: Tensor | None

    @staticmethod
    def cat(parts: list[Features]) -> Features:
        """The features of several batches as one."""
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)


class FeatureNet(Protocol):
    """Images to vectors, deterministic and in evaluation mode, whatever the size of the batch.

    Attributes:
        name: for people and cards, e.g. ``inception``.
        sha256: identifies the weights and everything else that decides the features (64 hex digits); two networks
            with equal ``sha256`` give equal features, so features are cached under it.
        resize: how images of another size are brought to the network's, in words for the card.
    """

    name: str
    sha256: str
    resize: str

    def __call__(self, images: Tensor) -> Features:
        """The features of ``images`` uint8 [B, C, H, W] in 0…255.

        Raises:
            DataError: if the network cannot take such images.
        """
        ...
