"""A read-only mapping from a name in a config file to the thing it names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import TypeVar, cast

from alphabar.base.errors import ConfigError, printable

__all__ = ["Registry", "nearest"]

T = TypeVar("T")


def nearest(given: object, choices: Mapping[str, object] | list[str]) -> str:
    """`` (did you mean 'x'?)`` when one of the choices is spelled almost like ``given``, else an empty string."""
    close = difflib.get_close_matches(given, list(choices), n=1) if isinstance(given, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


class Registry(Mapping[str, T]):
    """One family of choices in documentation order, extended by the entry points of group ``alphabar.<family>``.

    ``registry[name]`` raises :class:`ConfigError` naming the choices and the nearest spelling.
    """

    def __init__(self, family: str, entries: Mapping[str, T]) -> None:
        self.family = family
        self._own = dict(entries)

    def _plugins(self) -> dict[str, T]:
        return {
            point.name: cast(T, point.load())
            for point in entry_points(group=f"alphabar.{self.family}")
            if point.name not in self._own
        }

    def __getitem__(self, name: str) -> T:
        return self.named(name, self.family)

    def named(self, name: object, setting: str) -> T:
        """``registry[name]``, whose error begins with the ``setting`` that gave the name."""
        if isinstance(name, str) and name in self._own:
            return self._own[name]
        everything = {**self._own, **self._plugins()}
        if isinstance(name, str) and name in everything:
            return everything[name]
        raise ConfigError(
            f"{setting}: {printable(name)!r} is not one of {', '.join(everything)}{nearest(name, everything)}"
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._own or name in self._plugins())

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._plugins()})

    def __len__(self) -> int:
        return len(self._own) + len(self._plugins())

    def name_of(self, value: object) -> str:
        """The name under which the class of ``value`` is registered."""
        for name, entry in self.items():
            if entry is type(value):
                return name
        raise ConfigError(f"{self.family}: {type(value).__name__} is not registered; known are {', '.join(self)}")
