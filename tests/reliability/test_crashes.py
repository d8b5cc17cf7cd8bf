"""Deaths and power cuts inside a save."""

from __future__ import annotations

import pytest

from reliability.crashes import crash_in_save, crash_in_start, cut_power, forget_sync, keep_checkpoints


@pytest.fixture(scope="module")
def kept(short):
    keep_checkpoints(short)
    return short


def test_death_at_every_operation_of_a_save(kept):
    """The third save also removes the first checkpoint."""
    outcome = crash_in_save(kept, step=15, every=8)
    assert outcome.trials > 30 and not outcome.failures
    assert {"put", "half", "fsync", "mkdir", "replace", "unlink", "rmdir"} <= set(outcome.facts["operations"])


def test_death_at_operations_of_a_start(kept):
    outcome = crash_in_start(kept, every=4)
    assert outcome.trials > 8 and not outcome.failures


def test_every_state_after_a_power_cut(kept):
    outcome = cut_power(kept, "power", 60)
    assert outcome.trials > 200 and outcome.facts["operations"] > 100 and not outcome.failures


@pytest.mark.parametrize(
    ("name", "nth"),
    [("sync_file", 1), ("sync_file", 3), ("sync_directory", 1), ("sync_directory", 2)],
    ids=["of the log", "of a file", "of the name of the log", "of the names in a checkpoint"],
)
def test_a_forgotten_sync_is_found(kept, name, nth):
    """The simulation sees what it is for: without one of its syncs, the package loses a checkpoint."""
    assert forget_sync(kept, name, nth).failures
