"""Results that cost minutes and never change, kept between commands under a name that says what they are of.

A file here is safe to delete, and is used only when its bytes are those that were written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.errors import StorageError

__all__ = ["cache_folder", "read_tensors", "write_tensors"]


def cache_folder() -> Path:
    """Where results are kept: ``$ALPHABAR_CACHE``, else ``alphabar`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        StorageError: if there is none of them.
    """
    chosen = os.environ.get("ALPHABAR_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphabar"
    except RuntimeError as error:
        raise StorageError(
            "cache: this user has no home folder; set ALPHABAR_CACHE to a folder to keep it in"
        ) from error


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
