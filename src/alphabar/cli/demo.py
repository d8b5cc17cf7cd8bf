"""``alphabar demo``: from nothing to pictures and an honest number, on one page."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.errors import MissingExtra, printable
from alphabar.cli import sample as sampling
from alphabar.cli import train as training
from alphabar.cli.card import model_card
from alphabar.cli.console import duration, say
from alphabar.cli.evaluate import data_of_run, measure_bound
from alphabar.cli.model import open_model
from alphabar.data.batch import Images
from alphabar.evaluation.bound_study import bits_per_dim
from alphabar.evaluation.copies import Nearest, nearest
from alphabar.evaluation.curves import loss_curve
from alphabar.evaluation.pictures import enlarge, grid, png
from alphabar.evaluation.report import Section, page
from alphabar.model.prediction import PREDICTIONS
from alphabar.runtime.config import RunConfig, from_tables, read_toml
from alphabar.training.objectives import OBJECTIVES

__all__ = ["run"]

SAMPLES = 100
SHOWN_WITH_NEAREST = 10


def run(out: Path, minutes: float, seed: int) -> None:
    """The command."""
    began = time.monotonic()
    training.run(
        "digits",
        [],
        out=out,
        preset=None,
        config=None,
        steps=None,
        minutes=minutes,
        seed=seed,
        fresh=False,
        dry_run=False,
        micro_batch=None,
        strict_resume=False,
        accept_new_data=False,
    )
    folder, denoiser, _ = open_model(out)
    config = from_tables(read_toml(out / "config.toml"))
    train_images, held_out = data_of_run(folder)

    rule, chain, sampled = sampling.prepare(denoiser, None, None)
    facts = {"model": str(folder), "weights": "ema", "times": list(chain.times)}
    images = sampling.write_samples(sampled, rule, chain, range(SAMPLES), out / "samples", facts, animate=True)
    storage.write_file(out / "grid.png", (out / "samples" / "grid.png").read_bytes())
    for kind in ("gif", "webp"):
        storage.write_file(out / f"denoising.{kind}", (out / "samples" / f"denoising.{kind}").read_bytes())

    found, usual = _nearest(images, train_images), _nearest(_all(held_out), train_images)
    pairs = _pairs(images[:SHOWN_WITH_NEAREST], train_images, found)
    storage.write_file(out / "nearest.png", pairs)

    say(f"bound        {len(held_out)} held-out images through all {denoiser.schedule.T} steps")
    numbers = bits_per_dim(measure_bound(denoiser, held_out))
    storage.write_json(out / "bits_per_dim.json", numbers)

    curve = _curve(out)
    sections = [
        Section(
            "Samples",
            f"{SAMPLES} digits that do not exist: seeds 0 to {SAMPLES - 1}, none left out, {len(chain)} steps "
            "of ancestral sampling (Algorithm 2), EMA weights.",
            [("png", (out / "grid.png").read_bytes(), f"{SAMPLES} samples, each 8 by 8 pixels, enlarged")],
        ),
        Section(
            "From noise to digits",
            "The reverse process: x_t from t = T to 0, for the first 36 seeds.",
            [("webp", (out / "denoising.webp").read_bytes(), "the reverse process")],
        ),
        Section(
            "Loss",
            f"{_loss(config)} The held-out loss is taken at noise that never changes, so its points compare.",
            [("png", curve, "training and held-out loss against the step")] if curve else [],
            text="" if curve else str(MissingExtra("the loss curve", "matplotlib", "plots")),
            smooth=True,
        ),
        Section(
            "Bits per dimension",
            f"The variational bound (Eq. 5) on {len(held_out)} held-out images, every one of the {denoiser.schedule.T} "
            "terms, mean and standard error over images. Lower is better; raw pixels take 8.",
            rows=_bound_rows(numbers),
        ),
        Section(
            "New, or copied?",
            f"Left of each pair: a sample. Right: the nearest of {len(train_images)} training images. Median distance "
            f"{_median(found):.1f} grey levels (root mean square) for samples, {_median(usual):.1f} for real digits "
            "that were held out: samples much nearer than that would be copies.",
            [("png", pairs, "ten samples, each beside its nearest training image")],
        ),
        Section("The model", text="\n".join(model_card(denoiser))),
        Section("Every setting", text=(out / "config.toml").read_text(encoding="utf-8")),
    ]
    title = "alphabar: handwritten digits"
    subtitle = f"{config.run.steps:,} steps of {config.run.batch} images, seed {config.seed}."
    storage.write_file(out / "report.html", page(title, subtitle, sections))
    bound, error = numbers["bits_per_dim"], numbers["bits_per_dim_standard_error"]
    say(f"bits/dim     {bound:.3f} ± {error:.3f} on held-out digits")
    say(f"done         in {duration(time.monotonic() - began)}: open {printable(out / 'report.html')}")


def _loss(config: RunConfig) -> str:
    """What the curve shows, in words."""
    what = {"eps": "the noise ε", "v": "v = √ᾱ ε − √(1−ᾱ) x_0", "x0": "the image x_0"}
    kind = PREDICTIONS.name_of(config.prediction)
    text = f"The mean squared error (Eq. 14) of what the network predicts, {what.get(kind, kind)}"
    objective = OBJECTIVES.name_of(config.objective)
    return f"{text}." if objective == "simple" else f"{text}, with the weights of the objective {objective}."


def _all(images: Images) -> Tensor:
    return torch.from_numpy(np.array(images.pixels))


def _nearest(images: Tensor, train: Images) -> Nearest:
    return nearest(images, _all(train))


def _median(found: Nearest) -> float:
    return float(found.rmse.median())


def _pairs(images: Tensor, train: Images, found: Nearest) -> bytes:
    """Each sample beside its nearest training image, two pairs of columns to a row."""
    partners = _all(train)[found.index[: len(images)]]
    return png(grid(enlarge(torch.stack([images, partners], 1).flatten(0, 1)), columns=4))


def _curve(out: Path) -> bytes | None:
    """The loss curve, also written to ``loss.png``; None without matplotlib."""
    try:
        curve = loss_curve(out)
    except MissingExtra as missing:
        say(f"note         {missing}")
        return None
    storage.write_file(out / "loss.png", curve)
    return curve


def _bound_rows(numbers: dict[str, float | None]) -> list[tuple[str, str]]:
    names = {
        "bits_per_dim": "total",
        "prior_bits_per_dim": "L_T, prior",
        "terms_bits_per_dim": "L_1 … L_T−1, all steps between",
        "decoder_bits_per_dim": "L_0, last step to 8-bit pixels",
    }
    return [(name, f"{numbers[key]:.5f} ± {numbers[f'{key}_standard_error']:.5f}") for key, name in names.items()]
