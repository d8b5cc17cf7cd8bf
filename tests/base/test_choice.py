"""Choices: strict types, and errors that name the key, what was given, what is allowed and the nearest spelling."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest
from pydantic import Field

from alphabar.base.choice import choice, choose, describe, from_table, to_table
from alphabar.base.errors import ConfigError
from alphabar.base.registry import Registry
from alphabar.training.config import DataConfig, RunSettings
from alphabar.training.optim import OptimConfig


@choice
class Circle:
    radius: Annotated[float, Field(gt=0)] = 1.0
    centre: tuple[int, int] = (0, 0)
    name: str | None = None


@choice
class Square:
    side: float = 2.0

    def __post_init__(self):
        if self.side == 13:
            raise ConfigError("square.side: 13 is unlucky; take 12")


SHAPES = Registry("shapes", {"circle": Circle, "square": Square})


def complaint(cls, table, where):
    with pytest.raises(ConfigError) as caught:
        from_table(cls, table, where)
    text = str(caught.value)
    assert text.isprintable() and caught.value.exit_code == 2
    return text


@pytest.mark.parametrize(
    ("cls", "where", "table", "words"),
    [
        (OptimConfig, "optim", {"lr": "2e-4"}, ["optim.lr", "number", "2e-4"]),
        (OptimConfig, "optim", {"lr": float("nan")}, ["optim.lr", "finite", "NaN"]),
        (OptimConfig, "optim", {"lr": float("inf")}, ["optim.lr", "finite", "Infinity"]),
        (OptimConfig, "optim", {"lr": -1}, ["optim.lr", "greater than 0", "-1"]),
        (OptimConfig, "optim", {"lr": 0}, ["optim.lr", "greater than 0", "0"]),
        (OptimConfig, "optim", {"lr": True}, ["optim.lr", "number", "true"]),
        (OptimConfig, "optim", {"lr": [1e-4]}, ["optim.lr", "number", "[0.0001]"]),
        (OptimConfig, "optim", {"betas": [0.9, 1]}, ["optim.betas.1", "less than 1", "1"]),
        (OptimConfig, "optim", {"betas": [0.9]}, ["optim.betas"]),
        (OptimConfig, "optim", {"betas": [0.9, 0.99, 0.999]}, ["optim.betas"]),
        (OptimConfig, "optim", {"rate": "cosin"}, ["cosin", "constant", "did you mean 'cosine'"]),
        (OptimConfig, "optim", {"optimizer": "adamm"}, ["adamm", "did you mean 'adam"]),
        (RunSettings, "run", {"batch": 3.5}, ["run.batch", "integer", "3.5"]),
        (RunSettings, "run", {"batch": 8.0}, ["run.batch", "integer", "8.0"]),
        (RunSettings, "run", {"batch": "8"}, ["run.batch", "integer", '"8"']),
        (RunSettings, "run", {"batch": True}, ["run.batch", "integer", "true"]),
        (RunSettings, "run", {"batch": 0}, ["run.batch", "1", "0"]),
        (RunSettings, "run", {"steps": 0}, ["run.steps", "1", "0"]),
        (RunSettings, "run", {"steps": 10**30}, ["run.steps"]),
        (RunSettings, "run", {"precision": "fp16"}, ["run.precision", "fp16", "fp32"]),
        (RunSettings, "run", {"precision": None}, ["run.precision", "string", "null"]),
        (DataConfig, "data", {"flip": "yes"}, ["data.flip", "yes"]),
        (DataConfig, "data", {"flip": 1}, ["data.flip", "1"]),
        (DataConfig, "data", {"source": 3}, ["data.source", "string", "3"]),
    ],
)
def test_types_are_taken_literally_and_the_complaint_says_all(cls, where, table, words):
    text = complaint(cls, table, where)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(("key", "near"), [("lrr", "lr"), ("clipnorm", "clip_norm"), ("Betas", "betas")])
def test_an_unknown_key_names_the_nearest_and_the_allowed(key, near):
    text = complaint(OptimConfig, {key: 1}, "optim")
    assert f"optim.{key}" in text and f"did you mean '{near}'" in text and "warmup_steps" in text


def test_hostile_keys_and_values_cannot_break_the_line_or_flood_it():
    assert "\\n" in complaint(OptimConfig, {"lr\nerror: fake": 1}, "optim")
    assert len(complaint(OptimConfig, {"lr": "x" * 100_000}, "optim")) < 300
    complaint(OptimConfig, {"lr": "\x1b]0;title\x07\u202e"}, "optim")


def test_a_choice_built_in_code_is_checked_too():
    with pytest.raises(ConfigError, match=r"OptimConfig.lr.*greater than 0"):
        OptimConfig(lr=-1)
    with pytest.raises(ConfigError, match="finite"):
        OptimConfig(lr=float("nan"))
    with pytest.raises(ConfigError, match="lrr"):
        OptimConfig(lrr=1)
    with pytest.raises(ConfigError, match="unlucky"):
        Square(13.0)
    with pytest.raises(ConfigError, match="lr"):
        dataclasses.replace(OptimConfig(), lr=2.0)


def test_a_choice_is_frozen_hashable_and_compares_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Circle().radius = 2.0
    assert Circle(2.0) == Circle(2.0) != Circle(3.0) and hash(Circle(2.0)) == hash(Circle(2.0))


def test_tables_round_trip():
    for value in (Circle(), Circle(2.5, (3, -4), "c"), Square(7.0)):
        assert from_table(type(value), to_table(value), "shape") == value
        assert choose(SHAPES, describe(SHAPES, value), "shape") == value
    assert describe(SHAPES, Circle()) == {"kind": "circle", "radius": 1.0, "centre": [0, 0]}
    assert isinstance(from_table(Circle, {"centre": [1, 2]}, "shape").centre, tuple)


def test_a_whole_number_is_a_fine_float():
    assert from_table(Circle, {"radius": 3}, "shape").radius == 3.0


def test_choose_needs_a_known_kind():
    for table in ({}, {"kind": 3}, {"kind": None}, {"kind": ["circle"]}):
        with pytest.raises(ConfigError, match=r"shape.kind.*circle, square"):
            choose(SHAPES, table, "shape")
    with pytest.raises(ConfigError, match=r"shape.kind.*'cirle'.*circle, square.*did you mean 'circle'"):
        choose(SHAPES, {"kind": "cirle"}, "shape")
    with pytest.raises(ConfigError, match=r"shape.sid:.*unknown.*radius"):
        choose(SHAPES, {"kind": "circle", "sid": 1.0}, "shape")
    with pytest.raises(ConfigError, match=r"shape.side: circle has no such setting; set shape.kind=square as well"):
        choose(SHAPES, {"kind": "circle", "side": 1.0}, "shape")


def test_an_error_of_the_values_own_check_is_passed_on():
    assert complaint(Square, {"side": 13}, "square") == "square.side: 13 is unlucky; take 12"
