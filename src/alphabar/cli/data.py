"""``alphabar data check``: everything that training would find out about a set of images, without training."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.cli.console import say
from alphabar.cli.reading import open_watched, reading_of
from alphabar.data.batch import Images
from alphabar.data.survey import Survey, Unusable
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.runtime.config import override
from alphabar.runtime.recipes import recipe

__all__ = ["about_files", "check"]

SHOWN_IMAGES = 100
SHEET_SIDE = 1600
LISTED = 10
LISTED_KINDS = 8


def check(source: str, settings: Sequence[str], *, sheet: Path | None, as_json: bool) -> None:
    """The command.

    Raises:
        DataError: after the report, if training would refuse the images.
    """
    tables = override({}, settings)
    if set(tables) - {"data"}:
        raise ConfigError(f"{printable(min(set(tables) - {'data'}))}: data check takes the settings data.* only")
    reading = dataclasses.replace(reading_of(tables.get("data", {})), again=True)
    refusal = None
    try:
        images: Images | None = open_watched(source, reading)
    except Unusable as error:
        refusal, images = error, error.images
    survey = refusal.survey if refusal else images.survey if images and images.survey else Survey()
    place = None
    if images is not None:
        place = sheet if sheet is not None else Path(f"{images.name}-sheet.png")
        write_png(place, _contact_sheet(images))
    proposal = recipe(images.shape, len(images)) if images is not None and refusal is None else None
    if as_json:
        say(json.dumps(_facts(source, survey, images, refusal, place, proposal), indent=1))
    else:
        for line in _report(survey, images, refusal, place, proposal):
            say(line)
    if refusal:
        raise DataError(refusal.summary)


def _contact_sheet(images: Images) -> torch.Tensor:
    """Up to a hundred images from all over the set, as the network will see them; the first channel of many."""
    most = max(9, min(SHOWN_IMAGES, (SHEET_SIDE // max(images.shape[1:])) ** 2))
    rows = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(np.int64))
    pixels = torch.from_numpy(np.array(images.pixels[rows]))
    if pixels.shape[1] not in (1, 3):
        pixels = pixels[:, :1]
    every = max(1, 3 * max(images.shape[1:]) // SHEET_SIDE)
    return grid(enlarge(pixels[..., ::every, ::every]))


def about_files(survey: Survey) -> list[str]:
    """A line per file that is left out, at most ten."""
    lines = [f"left out     {printable(bad.path)}: {printable(bad.reason)}" for bad in survey.bad[:LISTED]]
    if len(survey.bad) > LISTED:
        lines.append(f"left out     … and {len(survey.bad) - LISTED:,} more; alphabar data check lists all")
    return lines


def _report(
    survey: Survey,
    images: Images | None,
    refusal: Unusable | None,
    place: Path | None,
    proposal: dict[str, Any] | None,
) -> list[str]:
    lines = []
    if images is not None:
        channels, height, width = images.shape
        lines.append(
            f"data         {printable(images.name)}: {len(images):,} images of {channels} x {height} x {width}"
        )
    counts = (
        ("formats", survey.formats),
        ("modes", survey.modes),
        ("sizes", survey.sizes),
        ("classes", survey.classes or _classes(images)),
    )
    lines += [f"{name:13}{_counted(counter)}" for name, counter in counts if counter]
    if survey.values:
        lines.append(f"values       {survey.values[0]:g} to {survey.values[1]:g}")
    lines += _listed("bad", [f"{printable(bad.path)}: {printable(bad.reason)}" for bad in survey.bad], most=None)
    lines += _listed("repeated", [f"{printable(a)} has the pixels of {printable(b)}" for a, b in survey.repeats])
    lines += _listed("constant", [printable(path) for path in survey.constant])
    lines += _listed("off-size", [f"{printable(path)}: {size}" for path, size in survey.off_size])
    notes = images.notes if images is not None else refusal.notes if refusal else ()
    lines += [f"note         {note}" for note in notes]
    if place is not None:
        lines.append(f"sheet        {printable(place)}: images as the network will see them")
    if proposal is not None:
        net, run = proposal["net"], proposal["run"]
        lines.append(
            f"would train  a U-Net of {net['base_channels']} channels x {net['base_channels_multiples']}, "
            f"{run['steps']:,} steps of {run['batch']} images, {run['precision']}, "
            f"{proposal['data']['held_out']:,} images held out; alphabar train --dry-run shows all settings"
        )
    return lines


def _classes(images: Images | None) -> Counter[str]:
    if images is None or images.labels is None:
        return Counter()
    return Counter(images.class_names[label] for label in images.labels.tolist())


def _counted(counter: Counter[str]) -> str:
    common = [f"{n:,} {printable(name)}" for name, n in counter.most_common(LISTED_KINDS)]
    more = len(counter) - len(common)
    return ", ".join(common) + (f", and {more:,} more kinds" if more else "")


def _listed(kind: str, lines: list[str], most: int | None = LISTED) -> list[str]:
    shown = lines[:most]
    listed = [f"{kind:13}{line}" for line in shown]
    if len(lines) > len(shown):
        listed.append(f"{kind:13}… and {len(lines) - len(shown):,} more; --json lists all")
    return listed


def _facts(
    source: str,
    survey: Survey,
    images: Images | None,
    refusal: Unusable | None,
    place: Path | None,
    proposal: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "source": source,
        "usable": refusal is None,
        "images": 0 if images is None else len(images),
        "shape": None if images is None else list(images.shape),
        "formats": survey.formats,
        "modes": survey.modes,
        "sizes": survey.sizes,
        "classes": survey.classes or _classes(images),
        "values": survey.values,
        "bad": [{"file": bad.path, "reason": bad.reason} for bad in survey.bad],
        "repeated": [{"file": path, "same_as": earlier} for path, earlier in survey.repeats],
        "constant": survey.constant,
        "off_size": [{"file": path, "size": size} for path, size in survey.off_size],
        "notes": images.notes if images is not None else refusal.notes if refusal else (),
        "sheet": None if place is None else str(place),
        "settings": proposal,
    }
