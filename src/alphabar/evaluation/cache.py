"""Results that cost minutes and never change, kept between commands under a name that says what they are of.

A file here is safe to delete, and is used only when its bytes are those that were written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from alphabar.base import storage

__all__ = ["read_tensors", "write_tensors"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep ``tensors`` at ``path``.

    Raises:
        StorageError: if the disk refuses.
    """
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    storage.write_file(path, hashlib.sha256(data).digest() + data)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What :func:`write_tensors` kept at ``path``; None if there is nothing, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    try:
        return dict(safetensors.torch.load(data[32:]))
    except safetensors.SafetensorError:
        return None
