"""The Inception score against its definition, its extremes and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchmetrics.image.inception import InceptionScore as Other

from alphabar.base.errors import ConfigError, DataError
from alphabar.evaluation.inception_score import inception_score
from oracles import metrics


def logits(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    return 3.0 * torch.randn((n, classes), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "splits"), [(60, 1), (60, 10), (57, 10), (19, 7), (10, 10)])
def test_score_is_its_definition(n: int, splits: int) -> None:
    x = logits(n, 6)
    expected = metrics.inception_scores(x.numpy(), splits)
    assert inception_score(x, splits) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-12, abs=1e-12)


def test_sure_and_all_classes_is_the_number_of_classes() -> None:
    """One-hot predictions, each class equally often in each split: K exactly."""
    x = 1e4 * torch.eye(7).repeat(20, 1)
    assert inception_score(x, 20) == pytest.approx((7.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1e4, 0.0, -1e4], [3.0, 1.0, 2.0]])
def test_always_the_same_answer_is_one(row: list[float]) -> None:
    assert inception_score(torch.tensor(row).repeat(50, 1)) == pytest.approx((1.0, 0.0), abs=1e-14)


def test_fewer_images_than_splits_score_one() -> None:
    assert inception_score(logits(4, 5), splits=10) == (1.0, 0.0)


def test_splits_are_consecutive() -> None:
    """A sorted set of sure answers: each split shows one class only, the whole shows both."""
    x = 1e3 * torch.eye(2).repeat_interleave(10, 0)
    assert inception_score(x, 2).mean == pytest.approx(1.0)
    assert inception_score(x, 1).mean == pytest.approx(2.0)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.floats(width=32)),
    st.integers(1, 12),
)
def test_always_finite_and_between_one_and_the_classes(x: np.ndarray, splits: int) -> None:
    x = np.nan_to_num(x)  # infinities become the largest floats
    score = inception_score(torch.from_numpy(x), splits)
    assert 1.0 <= score.mean <= x.shape[1]
    assert 0.0 <= score.std <= x.shape[1]


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
def test_torchmetrics_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shuffling taken out; its deviation divides by splits − 1."""
    x = logits(80, 10, seed=1)
    other = Other(feature=torch.nn.Identity(), splits=8)
    other.update(x)
    monkeypatch.setattr(torch, "randperm", torch.arange)
    mean, std = other.compute()
    assert inception_score(x, 8) == pytest.approx((float(mean), float(std) * (7 / 8) ** 0.5), rel=1e-12)


def test_what_is_refused() -> None:
    for wrong in (torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(5), torch.tensor([[0.0, math.nan]])):
        with pytest.raises(DataError, match=r"need \[N, K\]"):
            inception_score(wrong)
    with pytest.raises(ConfigError, match="splits: got 0, need 1 or more"):
        inception_score(logits(5, 2), splits=0)
