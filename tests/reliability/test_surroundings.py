"""Other writers, wrong clocks, other data, other settings of the machine."""

from __future__ import annotations

from reliability.surroundings import change_data, change_settings, late_writer, race, wrong_clocks


def test_two_writers_at_once(short):
    outcome = race(short, races=5)
    assert outcome.trials == 5 and not outcome.failures


def test_a_second_writer_is_refused_early_and_a_dead_one_holds_nothing(short):
    assert not late_writer(short).failures


def test_wrong_clocks_decide_nothing(short):
    assert not wrong_clocks(short).failures


def test_changed_images_are_refused(short):
    assert not change_data(short).failures


def test_settings_of_the_machine_change_nothing(short):
    outcome = change_settings(short)
    assert outcome.trials == 5 and not outcome.failures
