"""A long computation cut into parts, each kept on the disk as soon as it is finished, so that the next call goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alphabar.base import storage
from alphabar.base.version import __version__
from alphabar.evaluation import cache

__all__ = ["Parts", "key_of"]


def key_of(facts: Mapping[str, Any]) -> str:
    """16 hex digits that differ wherever ``facts`` (JSON values) differ."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()


class Parts:
    """The parts of one computation, in a folder named after everything that decides its result.

    ``facts`` are JSON values; with the version of this package, which may change a rule, they are kept beside the parts
    as ``facts.json``. Equal facts mean equal parts.
    """

    def __init__(self, root: Path, kind: str, facts: Mapping[str, Any]) -> None:
        self.facts = {"alphabar": __version__, **facts}
        self.folder = root / f"{kind}-{key_of(self.facts)}"
        self._seen: dict[str, int] = {}

    def get(self, name: str, rows: int) -> dict[str, Tensor] | None:
        """The part ``name`` if it is there, intact, and its tensors have at least ``rows`` rows."""
        tensors = cache.read_tensors(self.folder / f"{name}.part")
        if tensors is None or any(len(tensor) < rows for tensor in tensors.values()):
            return None
        return {key: tensor[:rows] for key, tensor in tensors.items()}

    def has(self, name: str, rows: int) -> bool:
        """Whether :meth:`get` would give it; what was found once is not read again."""
        if self._seen.get(name, -1) < rows and self.get(name, rows) is not None:
            self._seen[name] = rows
        return self._seen.get(name, -1) >= rows

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a part.

        Raises:
            StorageError: if the disk refuses; other parts are intact.
        """
        if not (self.folder / "facts.json").exists():
            storage.write_json(self.folder / "facts.json", self.facts)
        cache.write_tensors(self.folder / f"{name}.part", tensors)
        self._seen[name] = min(len(tensor) for tensor in tensors.values())
