"""Feature networks by name. A new one is a file with a :class:`~.base.FeatureNet` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alphabar.base.errors import ConfigError, printable
from alphabar.base.registry import Registry
from alphabar.evaluation.features.base import FeatureNet, Features
from alphabar.evaluation.features.classifier import known_classifiers, open_classifier
from alphabar.evaluation.features.custom import open_custom
from alphabar.evaluation.features.inception import open_inception
from alphabar.evaluation.features.pixels import Pixels
from alphabar.evaluation.features.random_conv import RandomConv

__all__ = ["FEATURES", "FeatureNet", "Features", "open_features"]

# what follows "kind:" in the name of a feature network, or an empty string -> the network
Opener = Callable[[str], FeatureNet]

FEATURES: Registry[Opener] = Registry(
    "features",
    {
        "inception": lambda path: open_inception(Path(path) if path else None),
        "classifier": open_classifier,
        "pixels": lambda nothing: Pixels(),
        "random-conv": lambda nothing: RandomConv(),
    },
)


def open_features(spec: str) -> FeatureNet:
    """The feature network that ``spec`` names.

    ``inception`` or ``inception:WEIGHTS``, ``pixels``, ``random-conv``, the name of a classifier in the cache
    (``digits``, ``mnist``, or ``classifier:NAME``), or ``MODULE:FACTORY@WEIGHTS.safetensors`` for one's own.

    Raises:
        ConfigError: if there is none of that name.
        CheckpointError: if its weights cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind in FEATURES:
        return FEATURES[kind](rest)
    if "@" in spec:
        return open_custom(spec)
    if spec in known_classifiers():
        return open_classifier(spec)
    trained = printable(", ".join(known_classifiers())) or "none yet"
    raise ConfigError(
        f"features: {printable(spec)!r} is neither one of {', '.join(FEATURES)}, nor a trained classifier "
        f"({trained}), nor MODULE:FACTORY@WEIGHTS; to train a classifier: "
        "alphabar classifier SOURCE --name NAME"
    )
