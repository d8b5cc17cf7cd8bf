"""The learning rate at every step, and the optimiser that uses it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from alphabar.base.errors import ConfigError
from alphabar.training.optim import OptimConfig, build_optimizer, lr_at


def rates(steps, **fields):
    config = OptimConfig(**fields)
    return [lr_at(step, steps, config) for step in range(steps)]


def test_warmup_rises_linearly_from_the_first_share_to_the_rate():
    found = rates(20, lr=0.1, warmup_steps=5)
    assert found[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert found[5:] == [0.1] * 15


def test_without_warmup_the_first_step_has_the_full_rate():
    assert rates(3, lr=0.1, warmup_steps=0) == [0.1] * 3
    assert rates(3, lr=0.1, warmup_steps=0, rate="cosine")[0] == 0.1


def test_no_step_has_rate_zero():
    for fields in ({"warmup_steps": 0}, {"warmup_steps": 7}, {"warmup_steps": 0, "rate": "cosine"}):
        assert min(rates(30, **fields)) > 0


def test_cosine_falls_from_the_rate_to_nothing():
    found = rates(105, lr=0.1, rate="cosine", warmup_steps=5)
    expected = [0.1 * (1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)]
    assert found[5:] == pytest.approx(expected)
    assert found[4] == found[5] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(found[4:]))
    assert found[55] == pytest.approx(0.05)
    config = OptimConfig(lr=0.1, rate="cosine", warmup_steps=5)
    assert lr_at(105, 105, config) == pytest.approx(0, abs=1e-15)


def test_a_run_shorter_than_its_warmup_only_rises():
    for rate in ("constant", "cosine"):
        found = rates(4, lr=0.1, warmup_steps=10, rate=rate)
        assert found == pytest.approx([0.01, 0.02, 0.03, 0.04])
        assert math.isfinite(lr_at(4, 4, OptimConfig(warmup_steps=4, rate=rate)))


def test_the_defaults_are_the_papers():
    config = OptimConfig()
    assert (config.optimizer, config.lr, config.rate, config.warmup_steps) == ("adam", 2e-4, "constant", 5000)
    assert (config.betas, config.weight_decay, config.clip_norm) == ((0.9, 0.999), 0.0, 1.0)
    assert lr_at(4999, 800_000, config) == lr_at(799_999, 800_000, config) == 2e-4


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_builds_the_named_optimiser_over_what_learns(name, kind):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    net[0].bias.requires_grad_(False)
    config = OptimConfig(optimizer=name, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    made = build_optimizer(net, config)
    assert type(made) is kind
    (group,) = made.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for n, p in net.named_parameters() if n != "0.bias"]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.01, (0.8, 0.95), 0.1)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^optim.optimizer: .*did you mean 'adamw'"):
        OptimConfig(optimizer="adamww")
    with pytest.raises(ConfigError, match=r"did you mean 'cosine'"):
        OptimConfig(rate="cosin")


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": 0},
        {"lr": 1.5},
        {"lr": math.nan},
        {"warmup_steps": -1},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"weight_decay": 1},
        {"clip_norm": 0},
        {"clip_norm": math.inf},
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        OptimConfig(**fields)
