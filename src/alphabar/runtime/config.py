"""How text becomes a ``RunConfig`` and back: TOML files, ``key=value`` overrides, presets."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from alphabar.base.choice import choose, describe, from_table, to_table
from alphabar.base.errors import ConfigError, printable
from alphabar.base.registry import Registry, nearest
from alphabar.model.denoiser import TIME_INPUTS, Clip
from alphabar.model.nn import UNetConfig
from alphabar.model.prediction import PREDICTIONS
from alphabar.model.variance import VARIANCES
from alphabar.process.schedules import SCHEDULES
from alphabar.training.config import DataConfig, RunConfig, RunSettings
from alphabar.training.ema import EmaConfig
from alphabar.training.objectives import OBJECTIVES
from alphabar.training.optim import OptimConfig
from alphabar.training.times import TIMES

__all__ = [
    "RunConfig",
    "check_sections",
    "dump",
    "from_tables",
    "load_config",
    "merge",
    "override",
    "plain",
    "preset",
    "presets",
    "read_toml",
    "to_tables",
]

OF_THE_PAPER = ("cifar10", "lsun256")  # presets that go by the name of "paper-…", too
MAX_BYTES = 1_000_000
MAX_DEPTH = 4  # a section, its keys, a table of values, and one to spare
# the time that tomllib takes for a.b.c.… grows with the square of its parts: 600 kB of them would take hours
# neither pattern can fail after a long match, so both take linear time: what is not closed ends with its line
LONG_KEY = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){8}")
STRING_OR_COMMENT = re.compile(
    r""""{3}(?:\\.|(?!"{3})[^\\])*+(?:"{3,5}|\\?\Z)|'{3}(?:(?!'{3}).)*+(?:'{3,5}|\Z)"""
    r"""|"(?:\\.|[^"\\\n])*+(?:"|\\?\Z|(?=\n))|'[^'\n]*+(?:'|\Z|(?=\n))|#[^\n]*+""",
    re.DOTALL,
)
_UNIONS: dict[str, Registry[Any]] = {"schedule": SCHEDULES, "objective": OBJECTIVES, "times": TIMES}
_PLAIN: dict[str, type[Any]] = {
    "data": DataConfig,
    "net": UNetConfig,
    "optim": OptimConfig,
    "ema": EmaConfig,
    "run": RunSettings,
}
_NAMES: dict[str, Registry[Any]] = {"prediction": PREDICTIONS, "variance": VARIANCES, "time": TIME_INPUTS}
SECTIONS = ("seed", "data", "schedule", "denoiser", "net", "objective", "times", "optim", "ema", "run")


def check_sections(tables: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every top-level key is a section of a config, and a table (``seed``: an integer)."""
    for key, value in tables.items():
        if key not in SECTIONS:
            close = nearest(key, list(SECTIONS))
            raise ConfigError(f"{printable(key)}: unknown section{close}; allowed are {', '.join(SECTIONS)}")
        if key == "seed":
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConfigError(f"seed: must be an integer, got {printable(repr(value))}")
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{key}: must be a section with keys, got {printable(repr(value))[:80]}")


def plain(section: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a section, with None for the word ``none``, which stands for it in a file."""
    return {key: None if value == "none" else value for key, value in section.items()}


def from_tables(tables: Mapping[str, Any]) -> RunConfig:
    """The config whose sections are ``tables`` (see ``docs/config.md``); a missing section takes its defaults.

    Raises:
        ConfigError: one line with the dotted key, what was given and what is allowed.
    """
    check_sections(tables)
    parts: dict[str, Any] = {}
    for key, value in tables.items():
        if key == "seed":
            parts["seed"] = value
        elif key in _UNIONS:
            parts[key] = choose(_UNIONS[key], value, key)
        elif key == "denoiser":
            parts |= _denoiser(value)
        else:
            parts[key] = from_table(_PLAIN[key], plain(value), key)
    return RunConfig(**parts)


def _denoiser(table: Mapping[str, Any]) -> dict[str, Any]:
    allowed = [*_NAMES, "clip"]
    parts: dict[str, Any] = {}
    for key, value in table.items():
        if key not in allowed:
            raise ConfigError(
                f"denoiser.{printable(key)}: unknown key{nearest(key, allowed)}; allowed are {', '.join(allowed)}"
            )
        if key == "clip":
            parts["clip"] = None if value == "none" else from_table(Clip, {"limit": value}, "denoiser.clip")
        elif not isinstance(value, str) or value not in _NAMES[key]:
            close = nearest(value, list(_NAMES[key])) if isinstance(value, str) else ""
            raise ConfigError(
                f"denoiser.{key}: must be one of {', '.join(_NAMES[key])}, got {printable(repr(value))}{close}"
            )
        else:
            parts["time_input" if key == "time" else key] = _NAMES[key][value]()
    return parts


def to_tables(config: RunConfig) -> dict[str, Any]:
    """The inverse of :func:`from_tables`: every setting, as plain values."""
    net = to_table(config.net)
    if config.net.total_time_steps is None:
        net["total_time_steps"] = "none"
    return {
        "seed": config.seed,
        "data": to_table(config.data),
        "schedule": describe(SCHEDULES, config.schedule),
        "denoiser": {
            "prediction": PREDICTIONS.name_of(config.prediction),
            "variance": VARIANCES.name_of(config.variance),
            "time": TIME_INPUTS.name_of(config.time_input),
            "clip": "none" if config.clip is None else config.clip.limit,
        },
        "net": net,
        "objective": describe(OBJECTIVES, config.objective),
        "times": describe(TIMES, config.times),
        "optim": to_table(config.optim),
        "ema": to_table(config.ema),
        "run": to_table(config.run),
    }


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in a TOML file of at most 1 MB, with the word ``none`` for a setting without a value.

    Raises:
        ConfigError: if it is missing, too large or no TOML (with the line).
    """
    where = printable(path)
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(f"{where}: YAML is not read here; TOML expected")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}; give a TOML file") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where}: more than {MAX_BYTES} bytes, which is the most that a config has")
    try:
        tables = _parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {printable(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return tables


def _parse(toml: str) -> dict[str, Any]:
    """The tables of a text.

    Raises:
        ConfigError: if it is no TOML, or its tables are nested deeper than any config's.
    """
    if LONG_KEY.search(STRING_OR_COMMENT.sub("s", toml)):
        raise ConfigError("not a config: it has a key of more than 8 parts")
    try:
        tables = tomllib.loads(toml)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise ConfigError(f"not valid TOML: {printable(error)}") from error
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        level = [v for table in level for v in (table.values() if isinstance(table, dict) else table)]
        level = [v for v in level if isinstance(v, dict | list)]
    if level:
        raise ConfigError(f"not a config: its tables are nested more than {MAX_DEPTH} deep")
    return tables


def override(tables: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """``tables`` with ``section.key=value`` assignments applied; values are TOML, and bare words are strings.

    In any order: a kind is chosen before what is set of it.

    Raises:
        ConfigError: if an assignment has another form.
    """
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in tables.items()}
    assigned = [_assigned(assignment) for assignment in assignments]
    for path, value in sorted(assigned, key=lambda one: one[0][1:] != ["kind"]):
        if len(path) == 1:
            merged[path[0]] = value
            continue
        section = merged.setdefault(path[0], {})
        if not isinstance(section, dict):
            raise ConfigError(f"{printable('.'.join(path))}: {path[0]} is a single value, not a section")
        # another kind has other fields: what was set for the old one does not apply
        if path[1] == "kind" and section.get("kind") != value:
            section = merged[path[0]] = {}
        section[path[1]] = value
    return merged


def _assigned(assignment: str) -> tuple[list[str], Any]:
    """The parts of the name, and the value."""
    if assignment.encode(errors="replace").decode() != assignment:
        raise ConfigError(f"{printable(assignment)!r}: is no UTF-8, which settings are")
    key, equals, text = assignment.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path) or len(path) > 2:
        raise ConfigError(f"{printable(assignment)!r}: not of the form section.key=value, e.g. run.batch=64")
    return path, _value(text)


def _value(text: str) -> Any:
    """The TOML value that ``text`` is, else ``text`` itself as a string."""
    try:
        parsed = _parse(f"value = {text}")
    except ConfigError:
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the settings of ``over`` on top, section by section; a section of another kind replaces it."""
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in over.items():
        old = merged.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merged[key] = {**old, **value}
        else:
            merged[key] = value
    return merged


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config in a TOML file, with ``section.key=value`` overrides.

    Raises:
        ConfigError: naming the file and the dotted key.
    """
    tables = override(read_toml(Path(path)), overrides)
    try:
        return from_tables(tables)
    except ConfigError as error:
        raise ConfigError(f"{printable(path)}: {error}") from None


def dump(config: RunConfig) -> bytes:
    """``config`` as TOML with every setting written out."""
    return tomli_w.dumps(to_tables(config)).encode()


def presets() -> list[str]:
    """The names of the packaged recipes."""
    folder = resources.files("alphabar") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset(name: str) -> dict[str, Any]:
    """The tables of a packaged recipe; the paper's are also known as ``paper-cifar10`` and ``paper-lsun256``.

    Raises:
        ConfigError: if there is none of that name.
    """
    names = {**{own: own for own in presets()}, **{f"paper-{own}": own for own in OF_THE_PAPER}}
    if name not in names:
        raise ConfigError(f"preset {printable(name)!r} is not one of {', '.join(names)}{nearest(name, list(names))}")
    name = names[name]
    return tomllib.loads((resources.files("alphabar") / "presets" / f"{name}.toml").read_text("utf-8"))
