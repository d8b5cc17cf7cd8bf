"""Bytes that changed on the disk."""

from __future__ import annotations

from reliability.corruption import corrupt_at_random


def test_every_damage_is_found_before_a_tensor_is_read(short):
    outcome = corrupt_at_random(short, trials=60, seed=3, continued=3)
    assert outcome.trials > 55 and not outcome.failures
