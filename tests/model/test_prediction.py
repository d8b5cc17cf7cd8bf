"""Whatever the network predicts, the estimate is the same; clipping follows one rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alphabar as ab
from oracles.gaussian import condition

SCHEDULE = ab.Schedule.from_betas(torch.linspace(0.02, 0.5, 10, dtype=torch.float64))
ABAR = SCHEDULE.alpha_bar.tolist()
X0 = torch.tensor([[[[0.3, -0.9], [1.0, 0.0]]], [[[-1.0, 0.5], [0.2, 0.7]]]], dtype=torch.float64)
EPS = torch.tensor([[[[1.3, -0.4], [0.1, 2.0]]], [[[-0.6, 0.8], [-2.2, 0.05]]]], dtype=torch.float64)
PREDICTIONS = {"eps": ab.Eps, "x0": ab.X0, "v": ab.V, "mean": ab.Mean, "score": ab.Score}


def truth(x0: Tensor, eps: Tensor, t: int, s: int) -> dict[str, Tensor]:
    """Every parametrisation of one (x0, ε), written out."""
    abar_t = ABAR[t]
    on_x0, on_x_t, _ = condition(abar_t, ABAR[s])
    x_t = abar_t**0.5 * x0 + (1 - abar_t) ** 0.5 * eps
    return {
        "x_t": x_t,
        "x0": x0,
        "eps": eps,
        "v": abar_t**0.5 * eps - (1 - abar_t) ** 0.5 * x0,
        "score": -eps / (1 - abar_t) ** 0.5,
        "mean": on_x0 * x0 + on_x_t * x_t,
    }


def denoiser_of(kind: str, out: Tensor, clip: ab.Clip | None = None) -> ab.Denoiser:
    """A network that always answers ``out``."""
    return ab.Denoiser(lambda x_t, index: out, SCHEDULE, prediction=PREDICTIONS[kind](), clip=clip, shape=(1, 2, 2))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 10).flatmap(lambda t: st.tuples(st.just(t), st.integers(0, t - 1))),
    st.sampled_from(sorted(PREDICTIONS)),
)
def test_all_pairs(times: tuple[int, int], kind: str) -> None:
    """From each of ε, x0, v, μ̃, score to each other, over any hop.

    A network is told t and not s: what it says of the mean is that of the hop t → t − 1, on every chain.
    """
    t, s = times
    expected, said = truth(X0, EPS, t, s), truth(X0, EPS, t, t - 1)[kind]
    (tr,) = (hop for hop in ab.Chain(SCHEDULE, times=(t, s, 0) if s else (t, 0)) if hop.t == t)
    est = denoiser_of(kind, said)(expected["x_t"], tr)
    for name in ("x0", "eps", "v", "score", "mean"):
        close(getattr(est, name), expected[name])
    close(est.x0_raw, expected["x0"])
    close(est.out, said)


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_one_time_per_image(kind: str) -> None:
    """A batch of different t gives each image its own coefficients."""
    chain = ab.Chain.full(SCHEDULE)
    t = torch.tensor([1, 8])
    rows = [truth(X0[i : i + 1], EPS[i : i + 1], int(t[i]), int(t[i]) - 1) for i in range(2)]
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    est = denoiser_of(kind, joined[kind])(joined["x_t"], chain.at(t))
    for name in ("x0", "eps", "v", "score", "mean"):
        close(getattr(est, name), joined[name])


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_the_network_sees_the_index(kind: str) -> None:
    """index = t − 1, int64, one per image, whether t is one number or many."""
    seen = []

    def net(x_t: Tensor, index: Tensor) -> Tensor:
        seen.append(index)
        return torch.zeros_like(x_t)

    denoiser = ab.Denoiser(net, SCHEDULE, prediction=PREDICTIONS[kind](), clip=None, shape=(1, 2, 2))
    chain = ab.Chain(SCHEDULE, times=(10, 4, 1, 0))
    for hop in chain:
        _ = denoiser(X0, hop).x0
    _ = denoiser(X0, chain.at(torch.tensor([10, 1]))).x0
    assert [index.tolist() for index in seen] == [[9, 9], [3, 3], [0, 0], [9, 0]]
    assert all(index.dtype == torch.int64 for index in seen)


@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_clipping_rule(kind: str) -> None:
    """x0 is clipped, ε, v, score and the mean are re-derived from it, x0_raw is what the network said."""
    t, s = 6, 5
    wild = 3.0 * X0
    expected = truth(wild, EPS, t, s)
    tr = next(hop for hop in ab.Chain.full(SCHEDULE) if hop.t == t)
    est = denoiser_of(kind, expected[kind], ab.Clip(1.0))(expected["x_t"], tr)
    clipped = wild.clamp(-1.0, 1.0)
    implied = truth(clipped, (expected["x_t"] - ABAR[t] ** 0.5 * clipped) / (1 - ABAR[t]) ** 0.5, t, s)
    for name in ("x0", "eps", "v", "score", "mean"):
        close(getattr(est, name), implied[name])
    close(est.x0_raw, wild)
    assert est.x0.abs().max().item() <= 1.0


def test_clip_limit() -> None:
    """The limit is a number, not always one."""
    tr = next(iter(ab.Chain.full(SCHEDULE)))
    est = denoiser_of("x0", 3.0 * X0, ab.Clip(0.5))(X0, tr)
    close(est.x0, (3.0 * X0).clamp(-0.5, 0.5))


def test_clipping_is_idle_inside_the_range() -> None:
    """No values outside [−1, 1], no difference."""
    tr = next(iter(ab.Chain.full(SCHEDULE)))
    expected = truth(X0, EPS, tr.t, tr.s)
    close(denoiser_of("eps", EPS, ab.Clip(1.0))(expected["x_t"], tr).mean, expected["mean"])


def test_a_number_is_the_limit_of_a_clip() -> None:
    """``clip=0.5`` and ``clip=Clip(0.5)`` are the same model; the default is 1."""

    def denoiser(**clip: object) -> ab.Denoiser:
        return ab.Denoiser(lambda x_t, index: x_t, SCHEDULE, shape=(1, 2, 2), **clip)

    assert denoiser(clip=0.5).clip == denoiser(clip=ab.Clip(0.5)).clip == ab.Clip(0.5)
    assert denoiser().clip == ab.Clip(1.0)
    assert denoiser(clip=None).clip is None


def test_arguments_of_another_kind_are_named() -> None:
    """A schedule's description instead of its table, a bare time instead of a hop."""
    with pytest.raises(ab.AlphabarError, match=r"\.build\(\)"):
        ab.Denoiser(lambda x_t, index: x_t, ab.schedules.Linear(), shape=(1, 2, 2))
    with pytest.raises(ab.AlphabarError, match=r"chain\.at"):
        ab.Denoiser(lambda x_t, index: x_t, SCHEDULE, shape=(1, 2, 2))(torch.zeros(1, 1, 2, 2), 5)


def test_a_chain_belongs_to_the_denoisers_schedule() -> None:
    denoiser = ab.Denoiser(lambda x_t, index: x_t, SCHEDULE, shape=(1, 2, 2))
    other = ab.Chain.full(ab.Schedule.from_betas([0.5, 0.9]))
    with pytest.raises(ab.AlphabarError, match="another schedule"):
        ab.generate(denoiser, ab.samplers.Ancestral(), other, seeds=[0])
