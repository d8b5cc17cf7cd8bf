"""Rate and distortion, the terms of the bound, the schedule: numbers against formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alphabar.base.errors import ConfigError
from alphabar.base.pixels import to_model_range
from alphabar.base.rng import Rng
from alphabar.data.batch import Images
from alphabar.evaluation.figures import FIGURES
from alphabar.evaluation.figures.rate_distortion import table_4
from alphabar.evaluation.figures.terms import noise_errors, weights
from alphabar.evaluation.likelihood import variational_bound
from alphabar.evaluation.rate_distortion import RateDistortion, rate_distortion
from alphabar.model.denoiser import Denoiser
from alphabar.model.prediction import V
from alphabar.model.variance import FixedLarge, FixedSmall
from alphabar.process.chain import Chain
from alphabar.process.schedules import JSD, Cosine, Linear


def test_rate_is_cumulative_and_ends_at_the_rate_of_the_bound(subject):
    bound = subject.bound
    found = rate_distortion(bound)
    assert found.times.tolist() == list(range(24, 0, -1))
    bits = 1 / (64 * math.log(2))
    rate = 0.0
    nats = [bound.prior_nats, *bound.terms_nats.T]
    for place, t in enumerate(found.times.tolist()):
        rate += float(nats[place].mean()) * bits
        assert float(found.rate[place]) == pytest.approx(rate, rel=1e-12), t
    assert float(found.rate[-1]) == pytest.approx(float(bound.rate.mean()), rel=1e-12)
    assert float(found.rate[0]) == pytest.approx(float(bound.prior_nats.mean()) * bits, rel=1e-12)
    assert (found.rate.diff() >= 0).all()


def test_distortion_is_the_rmse_in_grey_levels(subject):
    found = rate_distortion(subject.bound)
    expected = np.sqrt(subject.bound.mse.numpy().mean(0) * 127.5**2)
    assert np.allclose(found.distortion.numpy(), expected)
    assert (found.distortion > 0).all() and (found.distortion < 255).all()


def test_an_estimate_of_the_bound_has_no_curve(subject):
    x0 = to_model_range(subject.held_out.gather(np.arange(3)).x)
    chain = Chain.full(subject.chain.schedule)
    for chain_, hops in ((chain, 5), (Chain.spaced(chain.schedule, 6), None)):
        bound = variational_bound(subject.denoiser, x0, chain_, Rng(0), hops=hops)
        with pytest.raises(ConfigError, match="full chain"):
            rate_distortion(bound)


def test_the_table_is_in_the_form_of_table_4():
    found = RateDistortion(torch.arange(1000, 0, -1), torch.arange(1000) / 1000, torch.arange(1000, 0, -1) / 10)
    table = table_4(found)
    assert [row[0] for row in table.rows] == list(range(1000, 0, -100))
    assert table.rows[0][1:] == pytest.approx([0.999, 0.1]) and table.rows[-1][1:] == pytest.approx([0.099, 90.1])
    assert len(table.text().splitlines()) == 11
    few = RateDistortion(torch.arange(3, 0, -1), torch.arange(3.0), torch.arange(3.0))
    assert [row[0] for row in table_4(few).rows] == [3, 2, 1]


def test_the_rate_distortion_figure_is_of_the_curve(subject):
    figure = FIGURES["rate_distortion"](subject)
    found = rate_distortion(subject.bound)
    assert np.array_equal(figure.arrays["rate"], found.rate.numpy())
    rows = figure.tables[""].rows
    assert [row[0] for row in rows] == found.times.tolist() and [row[1] for row in rows] == list(range(24))
    assert "6 held-out images" in figure.caption and figure.tables["table"].text() == figure.text


def test_terms_are_means_over_images(subject):
    data = FIGURES["terms"](subject).arrays
    bound = subject.bound
    assert data["t"].tolist() == list(range(24, 0, -1))
    assert np.allclose(data["terms_nats"][:-1], bound.terms_nats.mean(0)) and data["terms_nats"][-1] == pytest.approx(
        float(bound.decoder_nats.mean())
    )
    expected = bound.terms_nats.numpy().std(0, ddof=1) / math.sqrt(6)
    assert np.allclose(data["terms_nats_standard_error"][:-1], expected)
    total = float(bound.prior_nats.mean()) + data["terms_nats"].sum()
    assert total == pytest.approx(float(bound.nats.mean()))
    rows = FIGURES["terms"](subject).tables[""].rows
    assert rows[0][3] == pytest.approx(rows[0][1] / (64 * math.log(2)))
    assert rows[-1][-1] == "" and len(rows) == 24


def stub(schedule, net, variance=FixedSmall(), prediction=None):  # noqa: B008 - a frozen value
    return Denoiser(net, schedule, shape=(1, 8, 8), variance=variance, prediction=prediction)


def test_the_error_of_a_network_that_says_nothing_is_one(make_subject):
    subject = make_subject()
    schedule = subject.chain.schedule
    silent = make_subject(as_trained=stub(schedule, lambda x, t: torch.zeros_like(x)))
    errors = noise_errors(silent, subject.train, [1, 12, 24])
    assert errors.shape == (24, 3) and abs(float(errors.mean()) - 1) < 0.1
    assert (errors.std(0) > 0).all()


def test_the_error_of_a_network_that_knows_the_image_is_zero(make_subject):
    """All images are one, so that ε = (x_t − √ᾱ x_0)/√(1−ᾱ) is known."""
    subject = make_subject()
    same = subject.train.subset(np.zeros(5, dtype=int))
    x0 = to_model_range(same.gather(np.arange(1)).x).double()
    abar = subject.chain.schedule.alpha_bar

    def exact(x, time):
        a = abar[int(time[0]) + 1]
        return ((x.double() - a.sqrt() * x0) / (1 - a).sqrt()).float()

    knowing = make_subject(as_trained=stub(subject.chain.schedule, exact))
    assert float(noise_errors(knowing, same, [1, 12, 24]).max()) < 1e-9


@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()])
def test_the_weights_are_those_of_eq_12(variance):
    schedule = Linear(T=50).build()
    found = weights(stub(schedule, lambda x, t: x, variance)).numpy()
    abar = schedule.alpha_bar.numpy()
    for place, t in enumerate(range(50, 1, -1)):
        alpha = abar[t] / abar[t - 1]
        beta = 1 - alpha
        sigma2 = beta if isinstance(variance, FixedLarge) else beta * (1 - abar[t - 1]) / (1 - abar[t])
        assert found[place] == pytest.approx(beta**2 / (2 * sigma2 * alpha * (1 - abar[t])), rel=1e-9)


def test_the_weighted_error_is_the_term(make_subject):
    """Eq. 12: L_{t−1} = w ‖ε − ε_θ‖², for σ² = β̃ and an x̂_0 that needs no clipping."""
    subject = make_subject()
    schedule = subject.chain.schedule
    x0 = to_model_range(subject.train.gather(np.arange(4)).x)
    denoiser = Denoiser(subject.denoiser.net, schedule, shape=(1, 8, 8), variance=FixedSmall(), clip=None)
    bound = variational_bound(denoiser, x0, Chain.full(schedule), Rng(0))
    abar = schedule.alpha_bar[2:].flip(0)
    # ‖ε − ε_θ‖² from ‖x_0 − x̂_0‖² by Eq. 9
    error = bound.mse[:, :-1] * 64 * abar / (1 - abar)
    assert torch.allclose(weights(denoiser) * error, bound.terms_nats, rtol=2e-3)


@pytest.mark.parametrize("spec", [Linear(T=30), Cosine(T=30), JSD(T=30)])
def test_the_schedule_figure_is_the_table(make_subject, spec):
    subject = make_subject()
    schedule = spec.build()
    silent = stub(schedule, lambda x, t: torch.zeros_like(x), prediction=V())
    figure = FIGURES["schedule"](type(subject)(silent, Chain.full(schedule)))
    data, abar = figure.arrays, schedule.alpha_bar.numpy()
    assert data["t"].tolist() == list(range(1, 31))
    assert np.array_equal(data["alpha_bar"], abar[1:])
    assert np.allclose(data["signal"] ** 2 + data["noise"] ** 2, 1) and np.allclose(data["signal"] ** 2, abar[1:])
    assert np.allclose(data["beta"], 1 - abar[1:] / abar[:-1])
    assert np.allclose(data["beta_tilde"], data["beta"] * (1 - abar[:-1]) / (1 - abar[1:]))
    assert np.allclose(data["snr"], abar[1:] / (1 - abar[1:]))
    columns = np.array(figure.tables[""].rows, dtype=float).T
    for name, column in zip(figure.tables[""].columns, columns, strict=True):
        assert np.array_equal(column, data[name])
    assert type(spec).__name__ in figure.title and figure.png()


def test_what_is_measured_is_not_the_first_class_of_sorted_files(make_subject):
    levels = np.repeat(np.array([0, 255], dtype=np.uint8), 40)[:, None, None, None]
    held_out = Images(np.tile(levels, (1, 1, 8, 8)), None, (), "sorted", "sorted")
    unseen = make_subject(held_out=held_out, n=20).unseen
    assert len(unseen) == 20 and 4 <= int((unseen.pixels[:, 0, 0, 0] > 0).sum()) <= 16
