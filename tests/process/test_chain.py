"""Chains visit what they promise, in order, and end at the data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import alphabar as ab
from oracles.gaussian import condition

SPACINGS = ["uniform", "quadratic", "leading", "trailing", "logsnr"]


def schedule_of(T: int) -> ab.Schedule:
    """Any strictly decreasing table of length T + 1."""
    return ab.Schedule.from_betas(torch.linspace(0.01, 0.3, T, dtype=torch.float64))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))), st.sampled_from(SPACINGS))
def test_spaced_chains(size: tuple[int, int], spacing: str) -> None:
    """Exactly ``steps`` consecutive, strictly decreasing hops; the last lands on ᾱ = 1."""
    T, steps = size
    schedule = schedule_of(T)
    chain = ab.Chain.spaced(schedule, steps, spacing=spacing)
    hops = list(chain)
    assert len(hops) == steps
    assert len(chain.times) == steps + 1
    assert chain.times[0] <= T
    assert [(hop.t, hop.s) for hop in hops] == list(zip(chain.times[:-1], chain.times[1:], strict=True))
    assert all(hop.t > hop.s >= 0 for hop in hops)
    assert (hops[-1].s, hops[-1].abar_s) == (0, 1.0)
    for hop in hops:
        assert hop.abar_t == schedule.alpha_bar[hop.t].item()
        assert hop.abar_s == schedule.alpha_bar[hop.s].item()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_is_the_full_chain(spacing: str) -> None:
    """steps = T leaves nothing to choose."""
    schedule = schedule_of(37)
    assert ab.Chain.spaced(schedule, 37, spacing=spacing).times == ab.Chain.full(schedule).times
    assert ab.Chain.full(schedule).times == tuple(range(37, -1, -1))


def test_known_spacings() -> None:
    """diffusers' leading and trailing grids in the paper's times; our own spacings start at T."""
    schedule = ab.schedules.Linear(T=1000).build()
    assert ab.Chain.spaced(schedule, 10, spacing="leading").times == (901, 801, 701, 601, 501, 401, 301, 201, 101, 1, 0)
    trailing = (1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0)
    assert ab.Chain.spaced(schedule, 10, spacing="trailing").times == trailing
    for spacing in ("uniform", "quadratic", "logsnr"):
        assert ab.Chain.spaced(schedule, 10, spacing=spacing).times[0] == 1000
    gaps = [hop.t - hop.s for hop in ab.Chain.spaced(schedule, 10, spacing="quadratic")]
    assert gaps == sorted(gaps, reverse=True)


def test_transitions_hold_python_floats() -> None:
    """Sampling coefficients are not tensors."""
    for hop in ab.Chain.full(schedule_of(5)):
        assert type(hop.t) is int and type(hop.s) is int
        assert type(hop.abar_t) is float and type(hop.abar_s) is float and type(hop.var_floor) is float


def test_var_floor_is_the_posterior_variance_before_the_last_hop() -> None:
    """β̃_2 on the full chain, its counterpart on any other, β where there is no other hop; or what was asked for."""
    schedule = schedule_of(10)
    abar = schedule.alpha_bar.tolist()
    full = [hop.var_floor for hop in ab.Chain.full(schedule)]
    assert full == pytest.approx([condition(abar[2], abar[1])[2]] * 10, rel=1e-12)
    spaced = [hop.var_floor for hop in ab.Chain(schedule, times=(10, 4, 1, 0))]
    assert spaced == pytest.approx([condition(abar[4], abar[1])[2]] * 3, rel=1e-12)
    (only,) = ab.Chain(schedule, times=(10, 0))
    assert only.var_floor == pytest.approx(1.0 - abar[10], rel=1e-12)
    given = {hop.var_floor for hop in ab.Chain(schedule, times=(10, 4, 1, 0), var_floor=0.125)}
    assert given == {0.125}


def test_at_gives_one_coefficient_per_image() -> None:
    """The hop that starts at each t, in float64, equal to what iteration yields."""
    schedule = schedule_of(10)
    for chain in (ab.Chain.full(schedule), ab.Chain(schedule, times=(10, 4, 1, 0))):
        hops = {hop.t: hop for hop in chain}
        t = torch.tensor([chain.times[-2], chain.times[0], chain.times[1], chain.times[-2]])
        together = chain.at(t)
        assert together.abar_t.dtype == together.abar_s.dtype == torch.float64
        assert together.t.tolist() == t.tolist()
        assert together.s.tolist() == [hops[i].s for i in t.tolist()]
        assert together.abar_t.tolist() == [hops[i].abar_t for i in t.tolist()]
        assert together.abar_s.tolist() == [hops[i].abar_s for i in t.tolist()]
        floor = torch.as_tensor(together.var_floor, dtype=torch.float64)
        assert floor.expand(4).tolist() == [hops[i].var_floor for i in t.tolist()]


@pytest.mark.parametrize("times", [(10, 4, 4, 0), (4, 10, 0), (10, 4, 1), (11, 0), (0,), (10, -1)])
def test_impossible_chains_are_refused(times: tuple[int, ...]) -> None:
    """Not strictly decreasing, not ending at the data, beyond the schedule, or empty."""
    with pytest.raises((ValueError, ab.AlphabarError)):
        list(ab.Chain(schedule_of(10), times=times))


@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    """Neither none nor more than T."""
    with pytest.raises((ValueError, ab.AlphabarError)):
        ab.Chain.spaced(schedule_of(10), steps)
