"""The sentence at each preview, for runs that learn, level off, overfit, diverge, learn nothing or turn a colour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alphabar.evaluation.doctor.history import History, Point
from alphabar.evaluation.doctor.pixel_facts import PixelFacts
from alphabar.evaluation.doctor.watch import Watch


def pictures(mean: float = 128, n: int = 25, seed: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 20, (n, 3, 8, 8)) + rng.normal(0, 8, (n, 1, 1, 1))
    return torch.from_numpy(x.round().clip(0, 255).astype(np.uint8))


REAL = PixelFacts.of(pictures(n=200, seed=1))


def sentences(train, held_out, every: int = 100, previews: int = 6, preview: torch.Tensor | None = None) -> list[str]:
    """The verdicts of a run with these losses as functions of the step."""
    watch, found = Watch(REAL, History(), every=every), []
    for step in range(1, every * previews + 1):
        watch.see(train(step))
        if step % every == 0:
            found.append(watch.verdict(step, held_out(step), pictures() if preview is None else preview))
    return found


def fall(step: int) -> float:
    return step**-0.3


def test_a_healthy_run():
    found = sentences(fall, fall)
    assert found[0].startswith("verdict: learning; the next preview tells how fast; samples' colours within ")
    # (200/100)^-0.3 is 19 % less
    assert found[1].startswith("verdict: learning; held-out loss still falls 19 % per 100 steps; ")
    assert all("verdict: learning" in sentence for sentence in found)
    thousands = sentences(fall, fall, every=2000, previews=2)[1]
    # 19 % in 2,000 steps are 10 % in each thousand
    assert "still falls 10 % per 1,000 steps" in thousands
    flat = sentences(lambda step: 0.1 + 1 / step, lambda step: 0.1)
    assert flat[-1].startswith("verdict: levelled off; held-out loss moved ") and "% in 100 steps" in flat[-1]
    assert "training loss still falls" in sentences(fall, lambda step: None)[-1]


def test_an_overfitted_run():
    found = sentences(fall, lambda step: fall(min(step, 200)) + max(0, step - 200) / 2000)
    assert "verdict: overfitting: held-out loss" in found[-1] and "best (step 200)" in found[-1]
    assert not any("overfitting" in sentence for sentence in found[:2])
    gap = sentences(fall, lambda step: 0.4)
    assert "times the training loss" in gap[-1]


def test_a_run_that_diverges():
    found = sentences(lambda step: fall(step) if step < 300 else 0.01 * step, fall)
    assert "verdict: diverging: the training loss rose from" in found[-1]
    assert "lower optim.lr" in found[-1]
    stuck = sentences(lambda step: 1.0 + 0.01 * math.sin(step), lambda step: 1.0)
    assert "verdict: not learning: the loss is" in stuck[-1]
    assert "not learning" not in stuck[0]
    # the first steps of a run with a rate of 1: out of the range at once, and then never below where it began
    thrown = sentences(lambda step: 1.0 if step == 1 else 900.0 if step < 60 else 1.05, lambda step: 1.08)
    assert "verdict: not learning: the loss is 1.05 and began at 1" in thrown[-1]


def test_steps_that_were_not_finite_are_told_once():
    found = sentences(lambda step: math.nan if step in (150, 160) else fall(step), fall)
    assert "diverging: 2 steps since the last preview were not finite" in found[1]
    assert "diverging" not in found[2]


@pytest.mark.parametrize(("shift", "words"), [(0, "colours within"), (30, "off by +")])
def test_colours(shift: float, words: str):
    assert words in sentences(fall, fall, preview=pictures(128 + shift))[-1]


@pytest.mark.parametrize(("level", "words"), [(101, "colours within 2 of 255"), (110, "off by +10 of 255")])
def test_images_without_any_spread(level: int, words: str):
    real, preview = (torch.full((9, 3, 8, 8), value, dtype=torch.uint8) for value in (100, level))
    assert words in Watch(PixelFacts.of(real), History(), every=1).verdict(1, None, preview)


def test_a_continued_run_says_what_the_uninterrupted_one_says():
    losses = tuple(Point(step, fall(step)) for step in range(1, 301))
    held_out = tuple(Point(step, fall(step)) for step in (100, 200, 300))
    continued = Watch(REAL, History(losses=losses, held_out=held_out), every=100)
    for step in range(301, 401):
        continued.see(fall(step))
    assert continued.verdict(400, fall(400), pictures()) == sentences(fall, fall)[3]


def blown_up(step: int) -> float:
    """It learned, then the loss stood at three times its best."""
    return 1.0 if step <= 20 else 0.1 if step <= 300 else 0.3


@pytest.mark.parametrize("resumed", [350, 400, 430])
def test_a_continued_run_without_held_out_images_remembers_its_best(resumed: int):
    losses = tuple(Point(step, blown_up(step)) for step in range(1, resumed + 1))
    continued = Watch(REAL, History(losses=losses), every=100)
    uninterrupted = sentences(blown_up, lambda step: None)
    for step in range(resumed + 1, 601):
        continued.see(blown_up(step))
        if step % 100 == 0:
            assert continued.verdict(step, None, pictures()) == uninterrupted[step // 100 - 1]
    assert "diverging: the training loss rose from 0.1 to 0.3" in uninterrupted[-1]


def test_a_skipped_step_at_a_preview_does_not_move_it():
    steps = [step for step in range(1, 301) if step != 200]
    losses = tuple(Point(step, fall(step)) for step in steps)
    assert [p.step for p in Watch(REAL, History(losses=losses), every=100).trained] == [100, 200, 300]
