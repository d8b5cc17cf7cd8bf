"""What every schedule in the registry must satisfy; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

import alphabar as ab
from alphabar.base.choice import choose, describe

SPECIAL = {"betas": {"values": (0.1, 0.5, 0.9)}, "alpha_bar": {"values": (1.0, 0.5, 0.0)}}


def build(name: str, T: int) -> ab.Schedule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ab.AlphabarWarning)
        return ab.SCHEDULES[name](**SPECIAL.get(name, {"T": T})).build()


@pytest.mark.parametrize("T", [1, 2, 3, 10, 100, 1000, 4000])
@pytest.mark.parametrize("name", ab.SCHEDULES)
def test_invariants(name: str, T: int) -> None:
    schedule = build(name, T)
    table = schedule.alpha_bar
    assert table.dtype == torch.float64 and table.device.type == "cpu"
    assert len(table) == schedule.T + 1 and (name in SPECIAL or schedule.T == T)
    assert table[0] == 1 and (table.diff() <= 0).all() and (table >= 0).all() and table[1] < 1
    assert ((schedule.betas > 0) & (schedule.betas <= 1)).all()


@pytest.mark.parametrize("name", ab.SCHEDULES)
def test_round_trip_through_a_config(name: str) -> None:
    schedule = build(name, 100)
    again = choose(ab.SCHEDULES, describe(ab.SCHEDULES, schedule.spec), "schedule")
    assert again == schedule.spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.T = 7


@pytest.mark.parametrize("name", ["linear", "quadratic", "constant", "warmup10", "warmup50"])
def test_the_end_does_not_depend_on_the_number_of_steps(name: str) -> None:
    """The 1000/T rule keeps ln ᾱ_T where it is at T = 1000; T = 100 with unscaled ends keeps 60 % of the signal."""
    reference = build(name, 1000).alpha_bar[-1].log().item()
    for T in (100, 500, 4000):
        assert build(name, T).alpha_bar[-1].log().item() == pytest.approx(reference, rel=0.15)


def test_a_warning_when_signal_is_left() -> None:
    with pytest.warns(ab.AlphabarWarning, match="alpha_bar_T is 0.36"):
        ab.schedules.Linear(T=100, beta_1=1e-4, beta_T=0.02).build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ab.schedules.Linear(T=100).build()
