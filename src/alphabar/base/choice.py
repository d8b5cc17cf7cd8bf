"""Choices: frozen, validated values that can travel through a config file, and how text becomes them and back."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic
from pydantic import ConfigDict, TypeAdapter

from alphabar.base.errors import ConfigError, printable
from alphabar.base.registry import Registry, nearest

__all__ = ["choice", "choose", "describe", "from_table", "to_table"]

T = TypeVar("T")

if TYPE_CHECKING:
    # type checkers know the semantics of the standard decorator; pydantic's own is the same plus validation
    from dataclasses import dataclass as _dataclass
    from typing import dataclass_transform

    @dataclass_transform(frozen_default=True)
    def choice(cls: type[T]) -> type[T]:
        """A frozen dataclass whose fields are validated: no unknown names, no NaN or infinity."""
        return _dataclass(frozen=True)(cls)
else:
    from pydantic.dataclasses import dataclass as _dataclass

    def choice(cls: type) -> type:
        """A frozen dataclass whose fields are validated: no unknown names, no NaN or infinity."""
        made = _dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
        validate = made.__init__

        @functools.wraps(validate)
        def __init__(self: Any, *args: Any, **fields: Any) -> None:
            try:
                validate(self, *args, **fields)
            except pydantic.ValidationError as error:
                raise ConfigError(_one_line(error, cls.__name__)) from None

        made.__init__ = __init__
        return made


def _one_line(error: pydantic.ValidationError, owner: str) -> str:
    """The first complaint of a pydantic error as *owner.field: what is allowed, got …*."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    place = ".".join(
        [owner, *(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "function-")))]
    )
    allowed = str(first["msg"]).removeprefix("Input ").replace("should be", "must be")
    return f"{place}: {allowed}, got {printable(json.dumps(first['input'], default=repr))[:80]}"


def _names(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """The choice ``cls`` with the fields in ``table``, which came from a file: types are taken literally.

    Raises:
        ConfigError: one line with the dotted key (``where`` is its head), what was given and what is allowed.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: must be a table of settings, got {printable(repr(table))[:80]}")
    allowed = _names(cls)
    for key in table:
        if key not in allowed:
            known = f"allowed are {', '.join(allowed)}" if allowed else f"{cls.__name__} has no settings"
            raise ConfigError(f"{where}.{printable(key)}: unknown key{nearest(key, allowed)}; {known}")
    try:
        return TypeAdapter(cls).validate_json(json.dumps(table, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(_one_line(error, where)) from None


def to_table(value: Any) -> dict[str, Any]:
    """The fields of a choice that are not None, as plain values: the inverse of :func:`from_table`."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items() if v is not None}


def choose(family: Registry[type[T]], table: Mapping[str, Any], where: str) -> T:
    """The member of ``family`` that ``table["kind"]`` names, with the other entries as its fields.

    Raises:
        ConfigError: if the kind is missing or unknown, or a field is wrong.
    """
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise ConfigError(f"{where}.kind: missing; choose one of {', '.join(family)}")
    kind = table["kind"]
    if kind not in family:
        raise ConfigError(f"{where}.kind: {printable(kind)!r} is not one of {', '.join(family)}{nearest(kind, family)}")
    fields = {k: v for k, v in table.items() if k != "kind"}
    for key in fields:
        others = [name for name in family if key in _names(family[name])]
        if others and kind not in others:
            kinds = " or ".join(others)
            raise ConfigError(f"{where}.{key}: {kind} has no such setting; set {where}.kind={kinds} as well")
    return from_table(family[kind], fields, where)


def describe(family: Registry[type[T]], value: T) -> dict[str, Any]:
    """``value`` as a table with its ``kind``: the inverse of :func:`choose`."""
    return {"kind": family.name_of(value), **to_table(value)}
