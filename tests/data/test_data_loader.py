"""Batches are a pure function of (seed, step), prepared ahead by a thread that goes away."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.base.errors import ConfigError
from alphabar.data.batch import Batch, Images
from alphabar.data.loader import AHEAD, Loader, indices


def images(n: int = 10) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 1, 2, 3), np.uint8)
    return Images(pixels, np.arange(n, dtype=np.int64), tuple(map(str, range(n))), "small", "folder:/small")


def threads() -> int:
    return sum(thread.name.startswith("alphabar-loader") for thread in threading.enumerate())


@given(n=st.integers(1, 30), batch=st.integers(1, 70), seed=st.integers(-3, 2**64), epochs=st.integers(1, 4))
def test_every_epoch_is_a_permutation(n: int, batch: int, seed: int, epochs: int) -> None:
    steps = -(-n * epochs // batch)
    stream = np.concatenate([indices(n, batch, seed, step) for step in range(steps)])
    assert stream.dtype == np.int64
    for epoch in range(epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_differ() -> None:
    first, second = indices(100, 100, 7, 0), indices(100, 100, 7, 1)
    assert (first != second).any()
    assert (first != indices(100, 100, 8, 0)).any()


@given(n=st.integers(1, 20), small=st.integers(1, 6), times=st.integers(1, 5), step=st.integers(0, 9))
def test_the_stream_does_not_depend_on_the_batch(n: int, small: int, times: int, step: int) -> None:
    large = indices(n, small * times, 1, step)
    pieces = [indices(n, small, 1, step * times + k) for k in range(times)]
    assert (large == np.concatenate(pieces)).all()


def test_indices_far_away_are_cheap_and_callers_cannot_spoil_the_cache() -> None:
    before = indices(10, 10, 0, 10**12).copy()
    indices(10, 10, 0, 10**12)[:] = 0
    assert (indices(10, 10, 0, 10**12) == before).all()


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, -1)])
def test_indices_refuse_nonsense(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="needs n >= 1"):
        indices(*arguments)


def test_loader_refuses_an_empty_set_and_an_empty_batch() -> None:
    with pytest.raises(ConfigError, match="batch = 0"):
        Loader(images(), 0, 0)
    with pytest.raises(ConfigError, match="no images"):
        Loader(images().subset(np.array([], np.int64)), 1, 0)
    with pytest.raises(ConfigError, match="from 0"):
        Loader(images(), 1, 0).steps(-1, 2)


def test_batch_holds_the_images_of_its_indices() -> None:
    held = images()
    batch = Loader(held, 4, 5).batch(3)
    chosen = indices(10, 4, 5, 3)
    assert (batch.x.numpy() == held.pixels[chosen]).all()
    assert batch.y is not None
    assert (batch.y.numpy() == chosen).all()
    assert batch.x.is_contiguous()


def test_flip_is_a_pure_function_of_the_position() -> None:
    held = images()
    plain, mirrored = Loader(held, 50, 5).batch(0).x, Loader(held, 50, 5, flip=True).batch(0).x
    flipped = torch.tensor([not torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)])
    assert 10 < flipped.sum() < 40
    assert torch.equal(mirrored[flipped], plain[flipped].flip(-1))
    smaller = torch.cat([Loader(held, 10, 5, flip=True).batch(step).x for step in range(5)])
    assert torch.equal(smaller, mirrored)


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (5, 9), (7, 8), (3, 3), (4, 2)])
def test_steps_are_the_batches_from_any_start(start: int, stop: int) -> None:
    loader = Loader(images(), 4, 1, flip=True)
    seen = list(loader.steps(start, stop))
    assert [step for step, _ in seen] == list(range(start, stop))
    for step, batch in seen:
        expected = loader.batch(step)
        assert torch.equal(batch.x, expected.x)
        assert batch.y is not None
        assert expected.y is not None
        assert torch.equal(batch.y, expected.y)
    assert threads() == 0


def test_the_thread_ends_when_the_generator_is_closed_or_dropped() -> None:
    for end in ("close", "drop"):
        steps = Loader(images(), 2, 0).steps(0, 10**9)
        next(steps)
        assert threads() == 1
        if end == "close":
            steps.close()  # type: ignore[attr-defined]
        del steps
        assert threads() == 0


def test_batches_are_prepared_a_bounded_number_ahead() -> None:
    prepared: list[int] = []

    class Counting(Loader):
        def batch(self, step: int) -> Batch:
            prepared.append(step)
            return super().batch(step)

    steps = Counting(images(), 2, 0).steps(0, 100)
    next(steps)
    deadline = time.monotonic() + 5
    while len(prepared) < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert prepared == list(range(AHEAD + 1))


def test_errors_reach_the_consumer_at_their_step() -> None:
    class Failing(Loader):
        def batch(self, step: int) -> Batch:
            if step == 2:
                raise OSError("the disk went away")
            return super().batch(step)

    steps = Failing(images(), 2, 0).steps(0, 5)
    assert [next(steps)[0], next(steps)[0]] == [0, 1]
    with pytest.raises(OSError, match="went away"):
        next(steps)
    assert threads() == 0


def test_waiting_is_measured() -> None:
    class Slow(Loader):
        def batch(self, step: int) -> Batch:
            time.sleep(0.02)
            return super().batch(step)

    loader = Slow(images(), 2, 0)
    list(loader.steps(0, 3))
    assert 0.03 < loader.waited_seconds < 2
