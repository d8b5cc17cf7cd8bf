"""What changed between two sets of images, named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alphabar.data.batch import Images
from alphabar.data.inventory import difference, inventory
from alphabar.data.survey import Survey
from tiny import images, pixels


def named(numbers: list[int], names: list[str] | None = None) -> Images:
    """Some of a hundred different images, called after their number unless ``names`` are given."""
    called = [f"{n:03d}.png" for n in numbers] if names is None else names
    made = Images(pixels(100)[numbers], None, (), "some", "folder:/some")
    return dataclasses.replace(made, survey=Survey(files=tuple(called)))


BEFORE = inventory(named(list(range(10))))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (named(list(range(10))), ""),
        (named(list(range(12))), "2 added (first: 010.png, 011.png)"),
        (named([1, 2, 3, 4, 5, 7, 8, 9]), "2 removed (first: 000.png, 006.png)"),
        (named([*range(9), 50], [f"{n:03d}.png" for n in range(10)]), "1 changed (first: 009.png)"),
        (
            named([*range(1, 9), 50, 60, 61, 62], [*(f"{n:03d}.png" for n in range(1, 10)), "x", "y", "z"]),
            "3 added, 1 removed, 1 changed (first: x, y, z)",
        ),
        (named(list(range(9, -1, -1))), "the same images under other names or in another order"),
        (named(list(range(10)), list("abcdefghij")), "the same images under other names or in another order"),
        (named([*range(10), 3], [*(f"{n:03d}.png" for n in range(10)), "copy.png"]), "1 added (first: copy.png)"),
    ],
)
def test_differences_are_counted_and_named(now, words):
    assert difference(BEFORE, now) == words


def test_a_label_counts_and_a_number_names():
    before = images(20, classes=4)
    after = dataclasses.replace(before, labels=np.where(np.arange(20) == 7, 3 - before.labels, before.labels))
    assert difference(inventory(before), before) == ""
    assert difference(inventory(before), after) == "1 changed (first: 7)"


def test_names_are_one_line_each():
    odd = named([0, 1], ["a\nb\tc.png", "\x1b[31m.png"])
    assert inventory(odd).count(b"\n") == 2 and b"\x1b" not in inventory(odd)
    assert difference(inventory(odd), odd) == ""
    assert "\n" not in difference(inventory(named([0])), odd)
