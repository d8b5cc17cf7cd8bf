"""What the doctor measures, against closed forms and numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from alphabar.base.errors import DataError
from alphabar.data.batch import Images
from alphabar.evaluation.doctor.history import History, Point, slope
from alphabar.evaluation.doctor.noise_bands import band_errors, bands_of, guess_errors
from alphabar.evaluation.doctor.pixel_facts import Measured, PixelFacts, apart, stacked_channels
from alphabar.evaluation.doctor.weight_facts import WeightFacts
from alphabar.model.denoiser import Denoiser
from alphabar.model.nn import UNet
from alphabar.process.schedules import Linear
from tiny import images, net


def noise(n: int = 64, channels: int = 3, size: int = 16, mean: float = 128, deviation: float = 10) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        rng.normal(mean, deviation, (n, channels, size, size)).round().clip(0, 255).astype(np.uint8)
    )


def test_means_and_deviations_are_those_of_numpy():
    x = noise()
    facts, y = PixelFacts.of(x), x.numpy().astype(np.float64)
    for channel in range(3):
        assert facts.mean[channel].value == pytest.approx(y[:, channel].mean())
        assert facts.deviation[channel].value == pytest.approx(y[:, channel].std())
        assert facts.mean[channel].error == pytest.approx(y[:, channel].mean((1, 2)).std(ddof=1) / 8)


def test_the_error_of_a_deviation_is_its_spread_over_sets():
    rng = np.random.default_rng(1)
    sets = rng.normal(128, 20, (60, 40, 1, 6, 6)) + rng.normal(0, 15, (60, 40, 1, 1, 1))
    facts = [PixelFacts.of(torch.from_numpy(s.round().clip(0, 255).astype(np.uint8))) for s in sets]
    spread = np.std([f.deviation[0].value for f in facts], ddof=1)
    assert np.mean([f.deviation[0].error for f in facts]) == pytest.approx(spread, rel=0.3)


def test_roughness_is_the_variance_of_white_noise_and_nothing_of_a_slope():
    assert PixelFacts.of(noise(deviation=10)).roughness.value == pytest.approx(100, rel=0.05)
    ramp = (torch.arange(16)[:, None] * 5 + torch.arange(16)[None, :] * 8).to(torch.uint8)
    assert PixelFacts.of(ramp.expand(2, 1, 16, 16)).roughness.value == 0


def test_range_constant_and_grey():
    x = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    x[:4] = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    facts = PixelFacts.of(x)
    assert facts.constant == pytest.approx(0.6) and facts.grey == 1
    x[0, 1] = x[0, 0] // 2
    assert PixelFacts.of(x).grey == pytest.approx(0.9)
    narrow = PixelFacts.of((noise(deviation=2)).clamp(120, 136))
    assert 120 <= narrow.low <= 125 and 131 <= narrow.high <= 136
    with pytest.raises(DataError, match="at least one"):
        PixelFacts.of(x[:0])


def test_apart_is_the_shift_of_a_histogram():
    x = noise(deviation=10)
    assert apart(PixelFacts.of(x), PixelFacts.of(x + 7)) == pytest.approx(7)
    assert apart(PixelFacts.of(x), PixelFacts.of(x)) == 0


def test_channels_that_were_stored_as_images():
    rng = np.random.default_rng(0)
    # one pattern per picture, of any strength and sign in each channel
    pictures = 128 + rng.normal(0, 20, (30, 1, 4, 4)) * rng.uniform(-2, 2, (30, 3, 1, 1))
    stored = torch.from_numpy(pictures.astype(np.uint8))
    assert stacked_channels(stored.reshape(90, 1, 4, 4)) < 0.2
    alike = stacked_channels(torch.from_numpy(rng.integers(0, 256, (90, 1, 4, 4), dtype=np.uint8)))
    assert alike == pytest.approx(1, abs=0.3)
    assert stacked_channels(stored) is None


def test_standard_errors_between_two_means():
    assert Measured(5, 3).beyond(Measured(0, 4)) == 1
    assert Measured(1, 0).beyond(Measured(1, 0)) == 0
    assert Measured(1, 0).beyond(Measured(2, 0)) == -np.inf


# --- history -----------------------------------------------------------------------------------------------------


def test_history_passes_over_what_it_does_not_know(tmp_path):
    lines = [
        {"step": 1, "loss": 1.0, "lr": 0.1, "grad_norm": 2.0, "seconds": 0.5},
        {"step": 2, "skipped": True, "loss": None, "reason": "inf"},
        {"step": 3, "skipped": True},
        {"step": 3, "loss": 0.5, "lr": 0.1},
        {"step": 3, "held_out_loss": 0.7},
        {"event": "something new"},
        [1, 2],
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '\n{"step": 4, "lo')
    (tmp_path / "run.json").write_text('{"state": "diverged", "step": 3}')
    (tmp_path / "diverged.json").write_text("not json")
    history = History.read(tmp_path)
    assert history.losses == (Point(1, 1.0), Point(3, 0.5))
    assert history.held_out == (Point(3, 0.7),)
    assert history.skipped == (2, 3) and history.step == 3
    assert history.state == {"state": "diverged", "step": 3} and history.diverged is None


def test_history_of_nothing(tmp_path):
    history = History.read(tmp_path)
    assert history == History() and history.step == 0 and history.windows() == []


def test_windows_are_medians_that_end_at_the_last_step():
    losses = tuple(Point(step, 100.0 if step % 7 == 0 else float(step)) for step in range(1, 106))
    windows = History(losses=losses).windows()
    assert len(windows) == 21 and windows[-1].step == 105
    assert windows[0].loss == np.median([p.loss for p in losses[:5]])


def test_the_slope_is_the_power_and_one_odd_point_does_not_move_it():
    points = [Point(step, 3 * step**-0.4) for step in (10, 20, 40, 80, 160, 320, 640)]
    assert slope(points) == pytest.approx(-0.4)
    assert slope([*points[:3], Point(80, 50.0), *points[4:]]) == pytest.approx(-0.4, abs=0.05)
    assert slope(points[:2]) is None and slope([*points, Point(700, -1.0)]) is None


# --- weights and errors --------------------------------------------------------------------------------------------


def test_weights_that_are_dead_or_not_finite():
    good = dict(net().state_dict())
    facts = WeightFacts.of(good)
    assert facts.not_finite == () and facts.dead == () and facts.output is not None and 0 < facts.largest < 10
    assert facts.output == pytest.approx(float(good["final.2.weight"].square().mean().sqrt()))
    bad = {**good, "first.weight": torch.zeros_like(good["first.weight"])}
    bad["final.0.bias"] = torch.full_like(good["final.0.bias"], torch.nan)
    facts = WeightFacts.of(bad)
    assert facts.dead == ("first.weight",) and facts.not_finite == ("final.0.bias",)


class Silent(torch.nn.Module):
    """Predicts no noise at all."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return x * self.weight


def test_bands_cover_every_time_once():
    for T in (1, 3, 8, 9, 1000):
        times = [t for first, last in bands_of(T) for t in range(first, last + 1)]
        assert times == list(range(1, T + 1))


def test_a_network_that_says_nothing_has_error_one():
    model = Denoiser(UNet(input_channels=1, output_channels=1, base_channels=8), Linear(T=20).build(), shape=(1, 8, 8))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    bands = band_errors(model.eval(), images(40), 40)
    assert [band.first for band in bands] == [first for first, _ in bands_of(20)]
    for band in bands:
        assert band.error.value == pytest.approx(1, abs=5 * band.error.error)
    # one image, drawn many times, says nothing of others
    assert band_errors(model, images(1), 40)[0].error.error == np.inf


def test_the_guess_is_the_best_one_for_independent_gaussian_pixels():
    """E‖ε − E[ε | x_t]‖² by simulation."""
    rng = np.random.default_rng(0)
    x0 = rng.normal(0, 0.3, (4000, 1, 2, 2)).clip(-1, 1)
    stored = Images(((x0 + 1) * 127.5).round().astype(np.uint8), None, (), "x", "x")
    model = Denoiser(Silent(), Linear(T=8).build(), shape=(1, 2, 2))
    found = guess_errors(model, stored, 4000)
    eps = rng.normal(size=x0.shape)
    for t, error in enumerate(found, 1):
        abar, s2 = float(model.schedule.alpha_bar[t]), x0.std() ** 2
        x_t = abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
        guess = (1 - abar) ** 0.5 / (abar * s2 + 1 - abar) * x_t
        assert error == pytest.approx(((guess - eps) ** 2).mean(), rel=0.05)
