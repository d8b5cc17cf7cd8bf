"""Labels of one source in the numbers of a network that learned another."""

from __future__ import annotations

import numpy as np
import pytest

from alphabar.base.errors import DataError
from alphabar.data.batch import Images
from alphabar.evaluation.classes import matched


def some(labels: list[int], *names: str) -> Images:
    return Images(
        np.zeros((len(labels), 1, 2, 2), np.uint8), np.array(labels, dtype=np.int64), names, "others", "others"
    )


@pytest.mark.parametrize(
    ("images", "known", "labels", "by_name"),
    [
        (some([0, 1, 1], "dog", "frog"), ("cat", "dog", "frog"), [1, 2, 2], True),
        # a name without an image is no matter
        (some([1, 1], "ant", "cat"), ("cat", "dog", "frog"), [0, 0], True),
        # folders named after digits
        (some([0, 1], "1", "2"), ("0", "1", "2"), [1, 2], True),
        (some([0, 1], "1", "2"), (), [1, 2], False),
        # numbers with gaps
        (some([0, 1], "1", "9"), ("1", "5", "9"), [0, 2], True),
        # a table of numbers for classes with names, and the other way round
        (some([0, 2], "0", "1", "2"), ("cat", "dog", "frog"), [0, 2], False),
        (some([0, 2], "cat", "dog", "frog"), ("0", "1", "2"), [0, 2], False),
        (some([0, 1], "dog", "frog"), (), [0, 1], False),
    ],
)
def test_labels_become_those_of_the_network(images, known, labels, by_name):
    found, named = matched(images, known, 3)
    assert found.labels.tolist() == labels and named == by_name
    assert found.class_names == (known if by_name else ("0", "1", "2"))


@pytest.mark.parametrize(
    ("images", "known", "words"),
    [
        (some([0, 1], "ant", "dog"), ("cat", "dog", "frog"), "class ant, the model knows cat, dog, frog"),
        (some([0, 3], "0", "1", "2", "3"), ("cat", "dog", "frog"), "class 3, the model knows 0 … 2"),
        (some([0, 3], "0", "1", "2", "3"), ("0", "1", "2"), "class 3, the model knows 0, 1, 2"),
        # 1 is class 0 of this network, so that no number is what it seems
        (some([0, 1], "1", "2"), ("1", "5", "9"), "class 2, the model knows 1, 5, 9"),
        (some([3], "ant", "cat", "dog", "frog"), (), "class frog (number 3), the model knows 0 … 2"),
        (some([0], "a"), tuple(f"class {i}" for i in range(10)), "class 7, … (10 classes)"),
    ],
)
def test_classes_that_the_network_does_not_know(images, known, words):
    with pytest.raises(DataError) as refusal:
        matched(images, known, 10 if len(known) == 10 else 3)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
