"""Registries: order, errors that help, plug-ins."""

from __future__ import annotations

import pytest

from alphabar.base import registry
from alphabar.base.errors import ConfigError
from alphabar.base.registry import Registry, nearest


class Red:
    pass


class Blue:
    pass


class Point:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def load(self):
        return self.value


COLOURS = Registry("colours", {"red": Red, "blue": Blue})


def test_is_a_mapping_in_documentation_order():
    assert list(COLOURS) == ["red", "blue"] and len(COLOURS) == 2
    assert COLOURS["red"] is Red and "blue" in COLOURS and "green" not in COLOURS
    assert dict(COLOURS.items()) == {"red": Red, "blue": Blue}


def test_an_unknown_name_names_the_family_the_choices_and_the_nearest():
    with pytest.raises(ConfigError, match=r"colours.*'bleu'.*red, blue.*did you mean 'blue'") as caught:
        COLOURS["bleu"]
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError) as caught:
        COLOURS["xyzzy"]
    assert "did you mean" not in str(caught.value)


def test_a_hostile_name_cannot_break_the_line():
    with pytest.raises(ConfigError) as caught:
        COLOURS["\x1b[31mred\nred\u202e"]
    assert str(caught.value).isprintable()


def test_is_read_only():
    with pytest.raises(TypeError):
        COLOURS["green"] = Red


def test_does_not_see_later_changes_of_the_given_table():
    table = {"red": Red}
    made = Registry("colours", table)
    table["blue"] = Blue
    assert list(made) == ["red"]


def test_plugins_are_added_but_cannot_replace(monkeypatch):
    asked = []

    def points(group):
        asked.append(group)
        return [Point("green", int), Point("red", int)]

    monkeypatch.setattr(registry, "entry_points", points)
    assert list(COLOURS) == ["red", "blue", "green"] and len(COLOURS) == 3
    assert COLOURS["green"] is int and COLOURS["red"] is Red and "green" in COLOURS
    assert set(asked) == {"alphabar.colours"}
    with pytest.raises(ConfigError, match="red, blue, green"):
        COLOURS["gren"]


def test_a_broken_plugin_does_not_hide_what_is_built_in(monkeypatch):
    class Broken(Point):
        def load(self):
            raise ImportError("no such module")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Broken("green", None)])
    assert COLOURS["red"] is Red and "red" in COLOURS


def test_name_of_is_the_inverse_of_lookup():
    assert COLOURS.name_of(Red()) == "red"

    class Crimson(Red):
        pass

    with pytest.raises(ConfigError, match=r"Crimson.*red, blue"):
        COLOURS.name_of(Crimson())


def test_nearest_is_empty_when_nothing_is_near():
    assert nearest("lrr", ["lr", "rate"]) == " (did you mean 'lr'?)"
    assert nearest("qqq", {"lr": 1}) == ""
    assert nearest("", []) == ""


def test_the_setting_that_gave_an_unknown_name_can_be_told():
    assert COLOURS.named("red", "paint.colour") is Red
    with pytest.raises(ConfigError, match=r"^paint.colour: 'bleu' is not one of red, blue \(did you mean 'blue'"):
        COLOURS.named("bleu", "paint.colour")
