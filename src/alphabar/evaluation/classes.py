"""Which class of a network the images of another source are of.

A source numbers the classes that it holds: in a folder of dogs and frogs the dogs are number 0, which are the cats of a
network that learned cats, dogs and frogs. Hence classes are matched by name where both sides have names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np

from alphabar.base.errors import DataError, printable
from alphabar.data.batch import Images

__all__ = ["matched"]

SHOWN = 8


def matched(images: Images, known: Sequence[str], classes: int) -> tuple[Images, bool]:
    """Labelled ``images`` with the labels that a network of ``classes`` classes gives them; whether by their names.

    ``known`` are the names of its classes, empty where nobody has them. Where they are not at hand, or only one side's
    are more than numbers, the numbers are taken as they are: those that names are, else the places of the names.

    Raises:
        DataError: if an image is of a class that the network does not know.
    """
    assert images.labels is not None
    names = images.class_names
    used = [names[label] for label in np.unique(images.labels)]
    by_name = bool(known) and (set(used) <= set(known) or _numbers(known) == _numbers(used))
    if by_name:
        number = {name: place for place, name in enumerate(known)}
    else:
        number = {name: int(name) if _numbers(used) else place for place, name in enumerate(names) if name in used}
    for name in used:
        if not 0 <= number.get(name, -1) < classes:
            allowed = _some(known) if by_name else f"0 … {classes - 1}"
            raise DataError(
                f"{printable(images.name)}: has images of class {_called(name, number)}, the model knows {allowed}; "
                "leave them out or name their class so"
            )
    labels = np.array([number.get(name, 0) for name in names], dtype=np.int64)[images.labels]
    own = tuple(known) if by_name else tuple(map(str, range(classes)))
    return dataclasses.replace(images, labels=labels, class_names=own), by_name


def _numbers(names: Iterable[str]) -> bool:
    return all(re.fullmatch(r"[0-9]{1,9}", name) for name in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", … ({len(names):,} classes)" if len(names) > SHOWN else "")


def _called(name: str, number: dict[str, int]) -> str:
    return name if name not in number or name == str(number[name]) else f"{name} (number {number[name]})"
