"""Scores as the command asks for them."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from alphabar.evaluation import scores
from alphabar.evaluation.features.base import Features
from alphabar.evaluation.kernel import within
from alphabar.evaluation.moments import Moments
from alphabar.evaluation.sample_study import _shuffled
from alphabar.evaluation.scores import SCORES, Compared


def test_neighbours_are_of_the_whole_reference_whatever_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source that is too large to be taken whole, and holds one class after the other, every class counts."""
    monkeypatch.setattr(scores, "MOST_NEIGHBOURS", 100)
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(200) // 100 * 1000.0  # two far from each other
    reference = noise + classes[:, None]
    samples = reference[torch.randperm(200, generator=torch.Generator().manual_seed(1))] + 0.01
    drawn = _shuffled(Features(reference, None)), Moments.of(reference)  # as the study hands them on
    sets = (Features(samples, None), Moments.of(samples), *drawn, partial(within, drawn[0].values))
    found = SCORES["pr"](Compared(*sets))
    assert found["precision"] > 0.9 and found["recall"] > 0.9 and found["coverage"] > 0.9
