"""Nearest images against a double loop, and what counts as a copy on sets made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.base.errors import DataError
from alphabar.evaluation.copies import find_copies, nearest, nearest_rows


def brute(rows: np.ndarray, others: np.ndarray, skip_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in others] for a in rows])
    if skip_self:
        np.fill_diagonal(distances, np.inf)
    return distances.argmin(1), distances.min(1)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("skip_self", [False, True])
def test_nearest_rows_against_a_double_loop(chunk, skip_self):
    rng = np.random.default_rng(0)
    others = rng.normal(size=(11, 5))
    rows = others if skip_self else rng.normal(size=(7, 5))
    index, distance = nearest_rows(torch.from_numpy(rows), torch.from_numpy(others), skip_self=skip_self, chunk=chunk)
    wanted = brute(rows, others, skip_self)
    assert (index.numpy() == wanted[0]).all()
    np.testing.assert_allclose(distance.numpy(), wanted[1], rtol=1e-9)


def test_nearest_of_images_is_exact_in_grey_levels():
    a = torch.zeros((1, 1, 2, 2), dtype=torch.uint8)
    b = torch.tensor([[[[9, 9], [9, 9]]], [[[4, 0], [0, 0]]]], dtype=torch.uint8)
    found = nearest(a, b)
    assert found.index.tolist() == [1] and found.rmse.tolist() == [2.0]


def test_bytes_are_compared_a_piece_at_a_time():
    """Rows of 8-bit images stay 8-bit as a whole; distances are those of float64 rows, in the unit asked for."""
    rng = np.random.default_rng(1)
    rows = [torch.from_numpy(rng.integers(0, 256, (n, 12), dtype=np.uint8)) for n in (9, 70, 60)]
    index, distance = nearest_rows(rows[0], rows[1], chunk=4)
    wanted = brute(rows[0].numpy().astype(float), rows[1].numpy().astype(float))
    assert (index.numpy() == wanted[0]).all()
    np.testing.assert_allclose(distance.numpy(), wanted[1], rtol=1e-12)
    found, expected = find_copies(*rows, unit=0.25), find_copies(*(0.25 * part.double() for part in rows))
    assert (found.index == expected.index).all() and found.threshold == pytest.approx(expected.threshold, rel=1e-12)
    torch.testing.assert_close(found.distance, expected.distance, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.usual, expected.usual, rtol=1e-12, atol=0)


def data(n: int, seed: int) -> torch.Tensor:
    return torch.randn((n, 20), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_fresh_draws_are_hardly_ever_copies_and_copies_always():
    train, held_out, fresh = data(500, 0), data(200, 1), data(1000, 2)
    assert find_copies(fresh, train, held_out).copied.double().mean() < 0.03
    nearly = train[:100] + 0.05 * data(100, 3)
    found = find_copies(nearly, train, held_out)
    assert found.copied.all() and (found.index == torch.arange(100)).all()
    assert found.baseline == "200 held-out images"


def test_few_held_out_images_are_no_baseline():
    train = data(20, 0)
    found = find_copies(train + 0.01, train, data(49, 1))
    assert found.baseline.startswith("20 training images") and found.copied.all()
    assert len(find_copies(train, train, data(50, 1)).usual) == 50


def test_duplicates_in_the_data_do_not_hide_copies():
    """Half of the training images stand there twice: their distance 0 is no measure of how far others lie."""
    once = data(60, 0)
    train = torch.cat([once, once[:30]])
    found = find_copies(once[:10] + 0.01, train, once[:0])
    assert found.threshold > 1 and found.copied.all()


def test_equal_images_everywhere():
    same = torch.ones((5, 3))
    assert find_copies(same, same, same[:0]).copied.all()
    assert not find_copies(same + 1, same, same[:0]).copied.any()


def test_a_clump_of_similar_images_does_not_make_fresh_ones_copies():
    """A tenth of the data lies close together, as the ones among handwritten digits do."""

    def clumped(n: int, seed: int) -> torch.Tensor:
        x = data(n, seed)
        x[: n // 10] *= 0.05
        return x

    found = find_copies(clumped(1000, 2), clumped(500, 0), clumped(200, 1))
    assert found.copied.double().mean() < 0.05


def test_one_training_image_is_too_few():
    with pytest.raises(DataError, match="at least 2"):
        find_copies(data(3, 0), data(1, 1), data(0, 2))
