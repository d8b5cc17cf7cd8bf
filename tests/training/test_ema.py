"""The average of the weights against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import alphabar as ab
from alphabar.training.ema import Ema, EmaConfig
from tiny import net

SCHEDULE = ab.schedules.Linear(T=20).build()


class Normed(torch.nn.Module):
    """A network with weights and buffers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 12))
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x, t):
        return self.norm(x) * self.weight.sum()


def denoiser() -> ab.Denoiser:
    return ab.Denoiser(Normed(), SCHEDULE, shape=(1, 4, 4))


def expected_decay(update, batch, halflife, warmup):
    decay = np.exp(np.log(0.5) * batch / halflife)
    return min(decay, (1 + update) / (10 + update)) if warmup else decay


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("batch", "halflife"), [(8, 64), (128, 887_000), (4, 4)])
def test_equals_the_closed_form_at_every_step(warmup, batch, halflife):
    model = denoiser()
    ema = Ema(model, EmaConfig(halflife_images=halflife, warmup=warmup), batch)
    rng = np.random.default_rng(0)
    weights, decays = [model.net.weight.detach().double().numpy().copy()], []
    for update in range(1, 41):
        new = rng.normal(size=12).astype(np.float32)
        with torch.no_grad():
            model.net.weight.copy_(torch.from_numpy(new))
        before = ema.denoiser.net.weight.clone()
        ema.update(model, update)
        assert not torch.equal(ema.denoiser.net.weight, before), f"update {update} did nothing"
        weights.append(new.astype(np.float64))
        decays.append(expected_decay(update, batch, halflife, warmup))
        # the share of each past weight: (1 − d_k) times all later decays
        d = np.array(decays)
        later = np.append(np.cumprod(d[::-1])[::-1], 1.0)
        shares = np.concatenate([later[:1], (1 - d) * later[1:]])
        assert shares.sum() == pytest.approx(1)
        average = (shares[:, None] * np.array(weights)).sum(0)
        np.testing.assert_allclose(ema.denoiser.net.weight.numpy(), average, rtol=0, atol=2e-6)


def test_after_the_halflife_old_weights_count_half():
    model = denoiser()
    ema = Ema(model, EmaConfig(halflife_images=80, warmup=False), batch=8)
    with torch.no_grad():
        model.net.weight.zero_()
    start = ema.denoiser.net.weight.clone()
    for update in range(1, 11):
        ema.update(model, update)
    torch.testing.assert_close(ema.denoiser.net.weight.data, start.data / 2, rtol=1e-5, atol=1e-7)


def test_the_decay_of_the_paper_and_its_warmup():
    assert EmaConfig(warmup=False).decay(1, 128) == pytest.approx(0.9999, abs=1e-7)
    warm = EmaConfig()
    assert warm.decay(1, 128) == pytest.approx(2 / 11)
    assert warm.decay(90, 128) == pytest.approx(0.91)
    assert warm.decay(10**7, 128) == EmaConfig(warmup=False).decay(1, 128)


def test_buffers_are_copied_not_averaged():
    model = denoiser()
    ema = Ema(model, EmaConfig(), 8)
    model.train()
    model.net(torch.randn(16, 1, 4, 4) * 3 + 5, torch.zeros(16))
    assert not torch.equal(ema.denoiser.net.norm.running_mean, model.net.norm.running_mean)
    ema.update(model, 1)
    for mine, theirs in zip(ema.denoiser.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()
    assert len(list(model.buffers())) == 3


def test_is_a_copy_in_evaluation_mode_that_learns_nothing():
    model = ab.Denoiser(net(dropout_rate=0.5), SCHEDULE, shape=(1, 8, 8)).train()
    ema = Ema(model, EmaConfig(), 8)
    assert model.training and not any(m.training for m in ema.denoiser.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in ema.denoiser.parameters())
    mine, theirs = ({p.data_ptr() for p in m.parameters()} for m in (ema.denoiser, model))
    assert not mine & theirs


def test_an_update_moves_the_average_only():
    model = ab.Denoiser(net(), SCHEDULE, shape=(1, 8, 8))
    ema = Ema(model, EmaConfig(), 8)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    before = [p.detach().clone() for p in model.parameters()]
    average = [p.clone() for p in ema.denoiser.parameters()]
    ema.update(model, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(average, ema.denoiser.parameters(), strict=True))


def test_the_fields_are_checked():
    with pytest.raises(ab.AlphabarError, match="halflife_images"):
        EmaConfig(halflife_images=0)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("batch", "halflife"), [(8, 64), (128, 887_000), (4, 4), (1, 10**12)])
def test_the_share_of_initial_weights_is_the_product_of_all_decays(warmup, batch, halflife):
    config = EmaConfig(halflife_images=halflife, warmup=warmup)
    product = 1.0
    for update in range(200):
        assert config.initial_share(update, batch) == pytest.approx(product, rel=1e-9, abs=1e-290)
        product *= expected_decay(update + 1, batch, halflife, warmup)


def test_the_share_that_is_known():
    """Decay 0.9999 holds 37 % after 10,000 steps; the warm-up leaves nothing of it."""
    paper = EmaConfig(halflife_images=round(np.log(0.5) / np.log(0.9999) * 128), warmup=False)
    assert paper.initial_share(10_000, 128) == pytest.approx(np.exp(-1), rel=1e-3)
    assert EmaConfig().initial_share(10_000, 128) < 1e-10
