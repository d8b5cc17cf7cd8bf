"""Where things are kept between commands that cost time and can be made again. Safe to delete at any time."""

from __future__ import annotations

import os
from pathlib import Path

from alphabar.base.errors import StorageError

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The folder: ``$ALPHABAR_CACHE``, else ``alphabar`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        StorageError: if there is none of them.
    """
    chosen = os.environ.get("ALPHABAR_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphabar"
    except RuntimeError as error:
        raise StorageError("cache: this user has no home folder; set ALPHABAR_CACHE to a folder") from error
