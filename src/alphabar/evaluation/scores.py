"""Distances between samples and real images in a feature space. A new score is a function and a line here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from alphabar.base.registry import Registry
from alphabar.evaluation.features.base import Features
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.inception_score import inception_score
from alphabar.evaluation.kernel import kernel_distance
from alphabar.evaluation.moments import Moments
from alphabar.evaluation.neighbours import neighbourhood_scores

__all__ = ["FEW", "MOST_NEIGHBOURS", "SCORES", "Compared"]

FEW = 2048
MOST_NEIGHBOURS = 10_000


@dataclass(frozen=True)
class Compared:
    """Samples and reference images in one feature space, each in random order: some of them stand for all.

    ``reference_within`` is :func:`~alphabar.evaluation.kernel.within` of the reference for a number of groups.
    """

    samples: Features
    sample_moments: Moments
    reference: Features
    reference_moments: Moments
    reference_within: Callable[[int], Tensor]


# what is compared -> numbers by name, all finite; a name ending in _standard_error belongs to the one before it
Score = Callable[[Compared], Mapping[str, float]]


def _fid(sets: Compared) -> Mapping[str, float]:
    return {"fid": frechet_distance(sets.sample_moments, sets.reference_moments)}


def _kid(sets: Compared) -> Mapping[str, float]:
    value, error = kernel_distance(sets.samples.values, sets.reference.values, sets.reference_within)
    return {"kid": value} | ({"kid_standard_error": error} if math.isfinite(error) else {})


def _inception_score(sets: Compared) -> Mapping[str, float]:
    assert sets.samples.logits is not None, "the study checks that the network has classes"
    mean, spread = inception_score(sets.samples.logits)
    return {"inception_score": mean, "inception_score_std": spread}


def _neighbours(sets: Compared) -> Mapping[str, float]:
    found = neighbourhood_scores(sets.reference.values[:MOST_NEIGHBOURS], sets.samples.values[:MOST_NEIGHBOURS])
    return found._asdict()


SCORES: Registry[Score] = Registry("scores", {"fid": _fid, "kid": _kid, "is": _inception_score, "pr": _neighbours})
