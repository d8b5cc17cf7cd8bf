"""The times of training: uniform, and spread evenly over every batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.base.rng import stream
from alphabar.training.times import TIMES, Uniform

BOTH = pytest.mark.parametrize("stratified", [False, True])


def draws(times, n, T, steps):
    return torch.stack([times.draw(n, T, stream(0, "t", step))[0] for step in range(steps)]).numpy()


def chi_square(t, T):
    counts = np.bincount(t.ravel(), minlength=T + 1)[1:]
    return ((counts - t.size / T) ** 2 / (t.size / T)).sum()


@BOTH
def test_shape_type_range_and_weights(stratified):
    t, weights = Uniform(stratified).draw(64, 20, stream(0))
    assert t.dtype == torch.int64 and t.shape == (64,) and weights.dtype == torch.float64
    assert torch.equal(weights, torch.ones(64, dtype=torch.float64))
    assert t.min() >= 1 and t.max() <= 20


@BOTH
def test_every_time_is_hit_from_one_to_T(stratified):
    assert np.unique(draws(Uniform(stratified), 16, 20, 40)).tolist() == list(range(1, 21))


@BOTH
def test_every_time_is_equally_likely_for_every_place_in_the_batch(stratified):
    t = draws(Uniform(stratified), 10, 20, 2000)
    # 19 degrees of freedom: 43.8 at p = 0.001; stratification can only make the sum over places smaller
    assert chi_square(t, 20) < 43.8
    for place in (0, 4, 9):
        assert chi_square(t[:, place], 20) < 43.8, place


def test_stratified_takes_one_time_from_each_stratum():
    for row in draws(Uniform(stratified=True), 8, 8 * 25, 50):
        assert sorted((row - 1) // 25) == list(range(8))
    for row in draws(Uniform(stratified=True), 20, 20, 50):
        assert sorted(row) == list(range(1, 21))
    for row in draws(Uniform(stratified=True), 64, 16, 20):
        assert np.bincount(row)[1:].tolist() == [4] * 16


def test_strata_are_dealt_out_in_random_order():
    t = draws(Uniform(stratified=True), 8, 800, 400)
    correlation = np.corrcoef((t - 1) // 100, rowvar=False)
    off = correlation[~np.eye(8, dtype=bool)]
    # two places cannot share a stratum: the correlation is −1/7 for any pair, and no pair is special
    assert np.abs(off + 1 / 7).max() < 0.18


def test_within_a_stratum_every_time_is_equally_likely():
    t = draws(Uniform(stratified=True), 4, 40, 1500)
    assert chi_square((t - 1) % 10 + 1, 10) < 27.9  # 9 degrees of freedom, p = 0.001


def test_unstratified_batches_are_not_spread():
    spread = draws(Uniform(stratified=False), 8, 8, 300)
    assert np.mean([len(np.unique(row)) for row in spread]) == pytest.approx(8 * (1 - (7 / 8) ** 8), abs=0.3)


@BOTH
@pytest.mark.parametrize(("n", "T"), [(1, 1), (5, 1), (1, 1000), (3, 100_000)])
def test_the_smallest_cases(stratified, n, T):
    t, _ = Uniform(stratified).draw(n, T, stream(0))
    assert t.shape == (n,) and t.min() >= 1 and t.max() <= T


def test_the_largest_uniform_number_stays_at_T():
    class Edge:
        def rand(self, shape):
            return torch.full(tuple(shape), 1 - 2**-53, dtype=torch.float64)

        def permutation(self, n):
            return torch.arange(n)

    for stratified in (False, True):
        for T in (1, 3, 1000, 99_999):
            t, _ = Uniform(stratified).draw(7, T, Edge())
            assert t.max() == T


@BOTH
def test_is_a_pure_function_of_the_stream(stratified):
    a, b, c = (Uniform(stratified).draw(32, 1000, stream(0, "t", step))[0] for step in (5, 5, 6))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_is_registered():
    assert TIMES["uniform"] is Uniform and Uniform().stratified
