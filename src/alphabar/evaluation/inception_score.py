"""The Inception score: does a classifier know what each picture shows, and do the pictures show everything?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError, DataError

__all__ = ["InceptionScore", "inception_score"]


class InceptionScore(NamedTuple):
    """Mean and standard deviation (of the population, ÷ splits) of the scores of the splits; each score in [1, K]."""

    mean: float
    std: float


def inception_score(logits: Tensor, splits: int = 10) -> InceptionScore:
    """exp(E_x KL( p(y|x) ‖ p(y) )) of ``logits`` [N, K] before the softmax, any float dtype, computed in float64.

    Source: Salimans et al. 2016, section 4, with the splits of their code: split i of n holds the images ⌊iN/n⌋ up to
    ⌊(i+1)N/n⌋ and p(y) is the mean of p(y|x) over the split. With N < ``splits`` there are N splits of one image, and
    the score of one image is 1. Compare scores of equal N only: a split of few images cannot score more than it has
    images.

    Raises:
        ConfigError: if ``splits`` < 1.
        DataError: if there are no images, or a logit is not finite.
    """
    if splits < 1:
        raise ConfigError(f"splits: got {splits}, need 1 or more; the paper's 10 will do")
    if logits.ndim != 2 or not logits.numel() or not logits.isfinite().all():
        raise DataError(
            f"Inception score: got logits of shape {list(logits.shape)}, need [N, K] with N, K ≥ 1 and every one "
            "finite; look for broken images or weights"
        )
    n = min(splits, len(logits))
    edges = [i * len(logits) // n for i in range(1, n)]
    scores = torch.stack([_score(part) for part in logits.double().log_softmax(1).tensor_split(edges)])
    return InceptionScore(float(scores.mean()), float(scores.std(unbiased=False)))


def _score(log_p: Tensor) -> Tensor:
    """The score of one split from ln p(y|x) float64 [n, K]; a class of probability 0 adds 0."""
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))
    p = log_p.exp()
    kl = torch.where(p > 0, p * (log_p - log_mean), 0.0).sum(1).mean()
    return kl.exp().clamp(1, log_p.shape[1])  # outside only by rounding
