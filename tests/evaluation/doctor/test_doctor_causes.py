"""Each cause on evidence made for it, and on evidence that speaks against it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.data.batch import Images
from alphabar.evaluation.copies import Copies
from alphabar.evaluation.doctor import CAUSES, Evidence, examine
from alphabar.evaluation.doctor.evidence import Data, Fresh, Model
from alphabar.evaluation.doctor.history import History, Point
from alphabar.evaluation.doctor.noise_bands import Band
from alphabar.evaluation.doctor.pixel_facts import Measured, PixelFacts
from alphabar.evaluation.doctor.sample_folders import SampleFolder
from alphabar.evaluation.doctor.weight_facts import WeightFacts
from alphabar.process.schedules import Linear, Schedule

GOOD_WEIGHTS = WeightFacts(60, (), (), 0.05, 0.3, "first.weight")
DESCRIPTION = {
    "schedule": {"kind": "linear", "T": 1000},
    "prediction": {"kind": "eps"},
    "variance": {"kind": "fixed_small"},
    "clip": 1.0,
}
SETTINGS = {
    "data": {"source": "folder:photos"},
    "run": {"batch": 32, "steps": 1000},
    "ema": {"halflife_images": 900, "warmup": True},
    "optim": {"lr": 1e-3, "clip_norm": 1.0},
}
MANIFEST = {
    "schedule": DESCRIPTION["schedule"],
    "prediction": DESCRIPTION["prediction"],
    "weights": "ema",
    "variance": "fixed_small",
    "clip": 1.0,
    "sampler": {"kind": "ancestral"},
    "times": [1000, 500, *range(100, -1, -5)],
}


def pixels(n: int = 80, mean: float = 128, deviation: float = 40, channels: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, deviation, (n, channels, 8, 8)) + rng.normal(0, 5, (n, 1, 1, 1))
    return torch.from_numpy(x.round().clip(0, 255).astype(np.uint8))


def jumping() -> tuple[Point, ...]:
    """A flat loss that is five times as large at one step in thirty."""
    return tuple(Point(step, 0.5 if step % 30 == 0 else 0.1) for step in range(1, 1001))


def tinted(levels: int) -> torch.Tensor:
    """The healthy samples with less green."""
    x = pixels(seed=1).int()
    x[:, 1] -= levels
    return x.clamp(0, 255).to(torch.uint8)


def data(x: torch.Tensor, stacked: float | None = None) -> Data:
    images = Images(x.numpy(), None, (), "photos", "photos")
    return Data(images, images.subset(np.arange(4)), PixelFacts.of(x), stacked, "photos")


def model(**over: Any) -> Model:
    parts: dict[str, Any] = {
        "folder": Path("run/step-000001000"),
        "step": 1000,
        "shape": (3, 8, 8),
        "schedule": Linear(T=1000).build(),
        "description": DESCRIPTION,
        "ema": GOOD_WEIGHTS,
        "raw": GOOD_WEIGHTS,
    }
    return Model(**(parts | over))


def curve(power: float = -0.05, n: int = 1000) -> History:
    points = [Point(step, 0.2 * step**power) for step in range(1, n + 1)]
    return History(
        losses=tuple(points),
        held_out=tuple(points[n // 10 - 1 :: n // 10]),
        norms=(0.1,) * n,
        seconds=(0.5,) * n,
        state={"state": "finished"},
    )


def bands(*errors: float, error: float = 0.001) -> list[Band]:
    return [Band(125 * i + 1, 125 * i + 125, Measured(value, error)) for i, value in enumerate(errors or (0.1,) * 8)]


def copies(share: float, n: int = 100) -> Copies:
    distance = torch.full((n,), 30.0, dtype=torch.float64)
    distance[: round(share * n)] = 1.0
    return Copies(torch.zeros(n, dtype=torch.int64), distance, torch.full((60,), 30.0), 10.0, "60 held-out images")


def fresh(x: torch.Tensor, share: float = 0.0) -> Fresh:
    return Fresh(PixelFacts.of(x), 50, copies(share))


def folder(x: torch.Tensor, **manifest: Any) -> SampleFolder:
    return SampleFolder("mine", MANIFEST | manifest, PixelFacts.of(x))


def evidence(**over: Any) -> Evidence:
    """A healthy run of 1,000 steps, with some of its evidence replaced."""
    parts: dict[str, Any] = {
        "run": Path("run"),
        "settings": SETTINGS,
        "history": curve(),
        "model": model(),
        "initial_share": 0.0,
        "data": data(pixels()),
        "ema_train": bands(),
        "ema_held_out": bands(),
        "raw_held_out": bands(),
        "guess": [0.5] * 8,
        "fresh": fresh(pixels(seed=1)),
        "folders": [folder(pixels(seed=2))],
    }
    return Evidence(**(parts | over))


def settings(**over: dict[str, Any]) -> dict[str, Any]:
    return {key: {**table, **over.get(key, {})} for key, table in SETTINGS.items()}


def test_a_healthy_run_has_no_findings():
    assert examine(evidence()) == []


def test_an_empty_folder_has_none_either():
    assert examine(Evidence(run=Path("run"), settings={}, history=History())) == []


SICK: dict[str, tuple[str, dict[str, Any], str]] = {
    "NaN": ("bad-weights", {"model": model(ema=dataclasses.replace(GOOD_WEIGHTS, not_finite=("a.b",)))}, "a.b"),
    "dead": (
        "bad-weights",
        {"model": model(raw=dataclasses.replace(GOOD_WEIGHTS, dead=("final.2.weight",)))},
        "final.2",
    ),
    "dead output": ("bad-weights", {"model": model(ema=dataclasses.replace(GOOD_WEIGHTS, output=1e-6))}, "1.0e-06"),
    "huge": ("rate-too-high", {"model": model(raw=dataclasses.replace(GOOD_WEIGHTS, largest=300.0))}, "300"),
    "0 to 1": ("data-range", {"data": data((pixels() > 128).to(torch.uint8))}, "0, 1"),
    "wrapped": ("data-range", {"data": data((pixels() > 128).to(torch.uint8) * 2 - 1)}, "1, 255"),
    "faint": ("data-range", {"data": data(pixels() // 32 + 120), "fresh": None}, "between"),
    "flat images": (
        "data-range",
        {"data": data(torch.arange(80, dtype=torch.uint8).reshape(80, 1, 1, 1).repeat(1, 3, 8, 8))},
        "100 %",
    ),
    "inverted": (
        "data-range",
        {"reference": PixelFacts.of(pixels(mean=60)), "data": data(pixels(mean=195)), "fresh": None},
        "inverted",
    ),
    "other range": (
        "data-range",
        {"reference": PixelFacts.of(pixels(mean=60)), "data": data(pixels(mean=110)), "fresh": None},
        "levels apart",
    ),
    "grey": ("channels", {"data": data(pixels(channels=1).repeat(1, 3, 1, 1))}, "100 %"),
    "stacked": (
        "channels",
        {"data": data(pixels(channels=1), 0.1), "model": model(shape=(1, 8, 8)), "fresh": None},
        "0.10",
    ),
    "other channels": (
        "channels",
        {"model": model(shape=(1, 8, 8)), "reference": PixelFacts.of(pixels())},
        "(1, 8, 8)",
    ),
    "signal left": (
        "chain-end",
        {"model": model(schedule=Schedule.from_betas(torch.linspace(1e-4, 0.01, 900, dtype=torch.float64)))},
        "alpha_bar_T",
    ),
    "few steps": ("chain-end", {"model": model(schedule=Linear(T=4).build())}, "one hop"),
    "diverged": (
        "rate-too-high",
        {"history": dataclasses.replace(curve(), state={"state": "diverged", "step": 7})},
        "step 7",
    ),
    "gave up": ("rate-too-high", {"history": dataclasses.replace(curve(), diverged={"step": 9})}, "step 9"),
    "skipped": ("rate-too-high", {"history": dataclasses.replace(curve(), skipped=tuple(range(5, 15)))}, "10 steps"),
    "rises": ("rate-too-high", {"history": curve(power=0.2)}, "rose"),
    "jumps": ("rate-too-high", {"history": dataclasses.replace(curve(), losses=jumping())}, "3.3 % of the losses"),
    "nothing learned": ("rate-too-high", {"raw_held_out": bands(*[0.6] * 8), "history": curve(power=0.0)}, "1.2 times"),
    "initial": ("ema-initial", {"updates": 1000, "initial_share": 0.9, "ema_held_out": bands(*[0.9] * 8)}, "90 %"),
    "copies": ("overfit", {"fresh": fresh(pixels(seed=1), share=0.6)}, "60 of 100"),
    "gap": ("overfit", {"ema_held_out": bands(*[0.25] * 3, *[0.1] * 5)}, "150 %"),
    "noise": (
        "residual-noise",
        {"folders": [folder(pixels(deviation=60), variance="fixed_large")]},
        "grey levels of noise",
    ),
    "no clip": ("sampling-settings", {"folders": [folder(pixels(mean=220), clip=None)]}, "none, trained with 1.0"),
    "schedule": (
        "sampling-settings",
        {"folders": [folder(pixels(mean=220), schedule={"kind": "cosine", "T": 1000})]},
        "cosine",
    ),
    "schedule that does no harm to be seen": (
        "sampling-settings",
        {"folders": [folder(pixels(), schedule={"kind": "cosine", "T": 1000})]},
        "cosine",
    ),
    "late start": (
        "sampling-settings",
        {"folders": [folder(pixels(mean=220), times=[801, *range(100, -1, -5)])]},
        "t = 801",
    ),
    "4 steps": ("sampling-settings", {"folders": [folder(pixels(mean=220), times=[1000, 700, 400, 1, 0])]}, "4 steps"),
    "9 steps of order 2": (
        "sampling-settings",
        {"folders": [folder(pixels(mean=220), times=[*range(1000, 100, -100), 0], sampler={"kind": "dpmpp_2m"})]},
        "9 steps of dpmpp_2m are few",
    ),
    "raw": ("sampling-settings", {"folders": [folder(pixels(mean=220), weights="raw")]}, "raw weights"),
    "falls": ("under-trained", {"history": curve(power=-0.5)}, "29 %"),
    "a saved model of noise": (
        "under-trained",
        {"fresh": fresh(pixels(deviation=60, seed=1)), "history": History(), "settings": {}},
        "grey levels of noise more",
    ),
    "still noise": ("under-trained", {"fresh": fresh(pixels(deviation=60, seed=1))}, "grey levels of noise more"),
    "brightness": ("colour-drift", {"fresh": fresh(pixels(mean=140, seed=1))}, "red"),
    "tint that outweighs a loss that falls": (
        "colour-drift",
        {"fresh": fresh(tinted(40)), "history": curve(power=-0.25)},
        "green: mean off by -39",
    ),
    "flat": ("colour-drift", {"fresh": fresh(pixels(deviation=30, seed=1))}, "deviation"),
}


@pytest.mark.parametrize("name", SICK)
def test_a_planted_cause_comes_first_with_its_numbers(name):
    cause, over, words = SICK[name]
    findings = examine(evidence(**over))
    assert findings and findings[0].cause == cause, [(f.cause, f.score) for f in findings]
    assert findings[0].sick and findings[0].score <= 1
    assert words in " ".join([findings[0].says, *findings[0].evidence])
    for text in (findings[0].says, findings[0].advice, *findings[0].evidence):
        assert text and "\n" not in text and text.isprintable()


def test_every_cause_is_planted_above():
    assert {cause for cause, _, _ in SICK.values()} == set(CAUSES)


HEALTHY: dict[str, dict[str, Any]] = {
    "an untrained output is no dead one": {
        "model": model(step=10, ema=dataclasses.replace(GOOD_WEIGHTS, output=1e-6)),
        "history": dataclasses.replace(curve(n=60), held_out=()),
    },
    "black and white images": {
        "data": data((pixels() > 128).to(torch.uint8) * 255),
        "fresh": fresh((pixels(seed=1) > 128).to(torch.uint8) * 255),
    },
    "the paper's chain": {"model": model(schedule=Linear(T=1000).build())},
    "few steps with a scaled schedule": {"model": model(schedule=Linear(T=100).build())},
    "one step skipped of a thousand": {"history": dataclasses.replace(curve(), skipped=(5,))},
    "a bound, whose terms jump": {
        "history": dataclasses.replace(curve(), losses=jumping()),
        "settings": SETTINGS | {"objective": {"kind": "bound"}},
    },
    "one band that is learned": {"raw_held_out": bands(*[0.6] * 7, 0.3), "history": curve(power=0.0)},
    "a loss that levels off": {"history": curve(power=-0.1)},
    "an average that holds initial weights but is as good as the raw ones": {"updates": 1000, "initial_share": 0.12},
    "two copies in a hundred": {"fresh": fresh(pixels(seed=1), share=0.02)},
    "rough images, and samples a little rougher": {
        "data": data(pixels(n=800)),
        "fresh": fresh(pixels(n=800, deviation=42, seed=1)),
    },
    "unseen images a little harder": {"ema_held_out": bands(*[0.115] * 8)},
    "one hard band by chance": {"ema_held_out": bands(0.2, *[0.1] * 7)},
    "a gap without certainty": {"ema_held_out": bands(*[0.2] * 8, error=0.1)},
    "sigma^2 = beta-tilde by itself": {
        "model": model(description=DESCRIPTION | {"variance": {"kind": "fixed_large"}}),
    },
    "12 steps of order 2": {
        "folders": [folder(pixels(mean=220), times=[*range(1000, 40, -80), 0], sampler={"kind": "dpmpp_2m"})]
    },
    "sigma^2 = beta on all steps": {
        "folders": [folder(pixels(seed=2), variance="fixed_large", times=list(range(1000, -1, -1)))],
        "model": model(description=DESCRIPTION | {"variance": {"kind": "fixed_large"}}),
    },
    "settings that did no harm": {"folders": [folder(pixels(seed=2), clip=None)]},
    "a level of brightness": {"fresh": fresh(pixels(mean=129.5, seed=1))},
    "a manifest of nonsense": {"folders": [folder(pixels(seed=2), times=["x"], sampler=3, variance=None)]},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_no_illness(name):
    assert [f for f in examine(evidence(**HEALTHY[name])) if f.sick] == []


def test_causes_come_before_their_symptoms():
    """A rate too high, and the tint, the initial average and the falling loss that come with a bad run."""
    found = examine(
        evidence(
            history=dataclasses.replace(curve(-0.5), skipped=tuple(range(20))),
            fresh=fresh(pixels(mean=200)),
            folders=[],
        )
    )
    assert [f.cause for f in found] == ["rate-too-high", "under-trained", "colour-drift"]


def test_a_loss_that_falls_by_a_quarter_outweighs_a_tint():
    found = examine(evidence(history=curve(-0.45), fresh=fresh(tinted(40))))
    assert [f.cause for f in found] == ["under-trained", "colour-drift"]


def test_a_run_that_goes_on_is_told_to_wait():
    found = examine(evidence(history=curve(-0.5), settings=settings(run={"steps": 5000})))
    assert found[0].cause == "under-trained" and "5,000 steps are planned" in found[0].advice


def test_a_channel_of_the_images_that_never_changes():
    """Its contrast is nothing to compare with; its mean is."""
    x = pixels()
    x[:, 2] = 0
    (found,) = examine(evidence(data=data(x)))
    assert found.cause == "colour-drift" and any("blue: mean off" in line for line in found.evidence)
