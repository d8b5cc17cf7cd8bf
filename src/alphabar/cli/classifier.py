"""``alphabar classifier``: a small classifier of one's own images, whose features measure samples of them."""

from __future__ import annotations

import re
import time

from alphabar.base.cache import cache_folder
from alphabar.base.errors import CheckpointError, ConfigError, DataError, printable
from alphabar.cli.console import duration, progress, say
from alphabar.cli.reading import open_watched
from alphabar.data.batch import Images
from alphabar.data.reading import Reading
from alphabar.evaluation.features import open_features
from alphabar.evaluation.features.base import FeatureNet
from alphabar.evaluation.features.classifier import (
    NAME,
    classifier_folder,
    known_classifiers,
    open_classifier,
    train_classifier,
)
from alphabar.evaluation.features.inception import FILE

__all__ = ["features_for", "run"]


def run(source: str, *, name: str | None, size: int | None, seed: int, epochs: int | None, quiet: bool = False) -> None:
    """The command."""
    images = open_watched(source, Reading(size))
    name = name or re.sub(r"\W+", "-", images.name).strip("-").lower() or "images"
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name: got {printable(name)!r}; use letters, digits, '-', '_' and '.', at most 64")
    if epochs is not None and epochs < 1:
        raise ConfigError(f"--epochs: need at least 1, got {epochs}")
    tell = (lambda text: None) if quiet else say
    tell(f"data         {printable(images.name)}: {len(images):,} images, {len(images.class_names)} classes")
    began = time.monotonic()
    steps = train_classifier(name, images, seed=seed, epochs=epochs)
    first = next(steps)
    if quiet:
        for _ in steps:
            pass
        return
    with progress(first.steps, "step") as bar:
        for at in steps:
            bar.update(at.step, f"loss {at.loss:.3f}")
    facts = open_classifier(name).facts
    tell(f"accuracy     {100 * facts.accuracy:.2f} % on images it was not trained on")
    tell(
        f"wrote        {printable(classifier_folder(name))} in {duration(time.monotonic() - began)}; "
        f"use it: alphabar evaluate RUN --metrics fid --features {name}"
    )


def features_for(spec: str | None, images: Images | None, shape: tuple[int, int, int], *, quiet: bool) -> FeatureNet:
    """The network that ``spec`` names, or without one the best there is for images like these.

    That is a classifier in the cache that was trained on them, Inception for colour images where its weights are, and
    the random convolutions otherwise. The classifier of the embedded digits is trained when it is first needed.
    """
    if spec is None:
        spec = _best(images, shape, quiet=quiet)
    if spec == "digits" and "digits" not in known_classifiers():
        if not quiet:
            say("features     training the classifier of digits, once")
        run("digits", name="digits", size=None, seed=0, epochs=None, quiet=quiet)
    return open_features(spec)


def _best(images: Images | None, shape: tuple[int, int, int], *, quiet: bool) -> str:
    if images is not None and images.spec == "digits":
        return "digits"
    for name in known_classifiers():
        try:
            facts = open_classifier(name).facts
        except CheckpointError as damaged:
            if not quiet:
                say(f"note         classifier {printable(name)} is passed over: {damaged}")
            continue
        if images is None or facts.trained_on != images.name or facts.shape != shape:
            continue
        if facts.fingerprint == _fingerprint_of_all(images):
            return name
    return "inception" if shape[0] == 3 and (cache_folder() / "inception" / FILE).exists() else "random-conv"


def _fingerprint_of_all(images: Images) -> str | None:
    """The fingerprint of the set that ``images`` are part of, read as :func:`run` reads it; None where it cannot."""
    if images.numbers is None:
        return images.fingerprint
    _, height, width = images.shape
    try:
        return open_watched(images.spec, Reading(height if height == width else None)).fingerprint
    except DataError:
        return None
