"""Interrupted runs end where uninterrupted ones do."""

from __future__ import annotations

from reliability.kills import kill_at_random, second_interrupt, signal_at_random, stop_before_training


def test_killed_runs_end_bitwise_equal(toy):
    outcome = kill_at_random(toy, kills=30, seed=1)
    assert outcome.trials == 30 and not outcome.failures


def test_a_signal_loses_no_step(toy):
    outcome = signal_at_random(toy, signals=6, seed=2)
    assert outcome.trials == 6 and not outcome.failures


def test_a_second_interrupt_leaves_at_once(short):
    assert not second_interrupt(short, step=10).failures


def test_a_signal_before_training_asks_to_be_run_again(short):
    assert not stop_before_training(short).failures
