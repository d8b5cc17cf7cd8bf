"""Why do samples of images with few hues get a tint? ``make campaign`` runs it; about 45 minutes of one core.

    python scripts/colour_drift.py [--runs FOLDER] [--steps 800]

Small networks are trained on textures of one hue that this script makes. Factors: what is predicted and minimised,
the batch, the half-life of the EMA (and none), the number of steps, the number of sampling steps, the hue. The measure
is the mean of each channel over samples, minus that of the training images, in 1/255, with its standard error. At the
end the recipe that ``alphabar train`` chooses is measured the same way. Finished cells are kept in FOLDER; results go
to ``docs/results/colour_drift.*`` and ``docs/images/colour_drift.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, write
from torch import Tensor

import alphabar as ab
from alphabar.base.pixels import to_model_range
from alphabar.cli.main import main as alphabar
from alphabar.data.batch import Images
from alphabar.model.denoiser import Denoiser
from alphabar.model.nn import UNetConfig
from alphabar.model.prediction import PREDICTIONS
from alphabar.model.variance import FixedSmall, LearnedRange
from alphabar.process.equations import q_sample
from alphabar.process.schedules import Linear
from alphabar.training import trainer
from alphabar.training.config import DataConfig, RunConfig, RunSettings
from alphabar.training.ema import Ema, EmaConfig
from alphabar.training.objectives import Hybrid, Simple
from alphabar.training.optim import OptimConfig

SIDE = 16
IMAGES = 1000
SAMPLES = 200
CHAIN = 50
# optical densities of two stains, as in histology: what each absorbs of red, green and blue
STAINS = np.array([[0.07, 0.99, 0.11], [0.65, 0.70, 0.29]])
HUES = {"pink": (0, 1, 2), "green": (1, 0, 2)}
GOALS = {"eps": "ε", "hybrid": "ε, learned σ²", "v": "v", "x0": "x₀"}
DEFAULTS = ("pink",)
TIMES = (1, 50, 150, 300, 450, 600, 700, 800, 900, 1000)


def textures(hue: str, n: int = IMAGES, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Pink tissue, or the same in green: uint8 [n, side, side, 3], Beer's law on two smooth stains."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((n, 2, 5, 5))
    places = np.linspace(0, 4, side)
    low = np.minimum(places.astype(int), 3)
    part = places - low
    rows = coarse[:, :, low] * (1 - part)[:, None] + coarse[:, :, low + 1] * part[:, None]
    smooth = rows[..., low] * (1 - part) + rows[..., low + 1] * part
    strength = 1 + 0.08 * rng.standard_normal((n, 1, 1))
    eosin = (0.35 + 0.12 * smooth[:, 0]).clip(0.05) * strength
    nuclei = 0.5 * np.maximum(smooth[:, 1] - 0.4, 0) * strength
    density = eosin[..., None] * STAINS[0] + nuclei[..., None] * STAINS[1]
    pixels = 245 * np.exp(-density) + rng.normal(0, 1.5, density.shape)
    return pixels[..., HUES[hue]].round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Arm:
    """One training."""

    goal: str
    batch: int
    seed: int
    hue: str = "pink"
    side: int = SIDE
    chains: tuple[int, ...] = (CHAIN,)

    @property
    def name(self) -> str:
        return f"{self.goal}-{self.batch}-{self.hue}-{self.side}-{self.seed}"


def config(arm: Arm, steps: int) -> RunConfig:
    hybrid = arm.goal == "hybrid"
    network = UNetConfig(
        input_channels=3,
        output_channels=6 if hybrid else 3,
        num_res_blocks=1,
        base_channels=8,
        base_channels_multiples=(1, 2),
        apply_attention=(False, False),
        dropout_rate=0.0,
        attention_heads=1,
        norm_groups=4,
        channel_dropout=False,
        small_init=True,
        total_time_steps=None,
    )
    return RunConfig(
        seed=arm.seed,
        data=DataConfig(source="textures", held_out=200),
        schedule=Linear(),
        prediction=PREDICTIONS["eps" if hybrid else arm.goal](),
        variance=LearnedRange() if hybrid else FixedSmall(),
        objective=Hybrid() if hybrid else Simple(),
        net=network,
        optim=OptimConfig(optimizer="adamw", lr=1e-3, warmup_steps=steps // 20),
        ema=EmaConfig(halflife_images=steps * arm.batch // 20),
        run=RunSettings(steps=steps, batch=arm.batch),
    )


def drift(samples: Tensor, data: Tensor) -> dict[str, Any]:
    """Means of the channels of ``samples`` minus those of ``data``, standard errors and ratio of the deviations."""
    means = samples.double().mean((2, 3))
    return {
        "drift": (means.mean(0) - data.double().mean((0, 2, 3))).tolist(),
        "error": (means.std(0) / len(means) ** 0.5).tolist(),
        "deviation_ratio": (samples.double().std((0, 2, 3)) / data.double().std((0, 2, 3))).tolist(),
    }


def sampled(denoiser: Denoiser, steps: int) -> Tensor:
    chain = ab.Chain.spaced(denoiser.schedule, steps)
    return ab.generate(denoiser, ab.samplers.Ancestral(), chain, seeds=range(SAMPLES), batch=100)


@torch.no_grad()
def guesses(denoiser: Denoiser, held_out: Tensor) -> list[list[float]]:
    """How far the mean of x̂_0 lies from that of x_0, per time and channel, in 1/255, from images it never saw."""
    x0, chain = to_model_range(held_out), ab.Chain.full(denoiser.schedule)
    eps = ab.stream(0, "guesses").randn_like(x0)
    found = []
    for t in TIMES:
        tr = chain.at(torch.full((len(x0),), t))
        x0_raw = denoiser(q_sample(x0, eps, tr.abar_t), tr).x0_raw
        found.append(((x0_raw - x0).double().mean((0, 2, 3)) * 127.5).tolist())
    return found


def train(arm: Arm, steps: int) -> dict[str, Any]:
    """Train once; sample from raw weights and from two averages at a quarter and at the end."""
    pixels = textures(arm.hue, side=arm.side).transpose(0, 3, 1, 2)
    run = trainer.build(config(arm, steps), Images(pixels.copy(), None, (), "textures", "textures"), device="cpu")
    slow = Ema(run.denoiser, replace(run.config.ema, halflife_images=3 * steps * arm.batch // 10), arm.batch)
    data = torch.from_numpy(np.array(run.images.pixels))
    cells: list[dict[str, Any]] = []
    for m in trainer.fit(run):
        slow.update(run.denoiser, m.step)
        if m.step not in (steps // 4, steps):
            continue
        weights: dict[str, Callable[[], Denoiser]] = {"raw": lambda: run.denoiser, "ema 5 %": lambda: run.ema.denoiser}
        if m.step == steps:
            weights["ema 30 %"] = lambda: slow.denoiser
        for name, chosen in weights.items():
            for chain in arm.chains if (m.step, name) == (steps, "ema 5 %") else (CHAIN,):
                found = drift(sampled(chosen(), chain), data)
                cells.append({"step": m.step, "weights": name, "chain": chain, **found})
    held_out = torch.from_numpy(np.array(run.held_out.pixels))
    return {
        **arm.__dict__,
        "cells": cells,
        "guesses": guesses(run.ema.denoiser, held_out),
        "held_out_loss": trainer.held_out_loss(run),
        "unseen images": drift(held_out, data),
    }


def default_recipe(folder: Path, hue: str, steps: int) -> dict[str, Any]:
    """``alphabar train`` on 8×8 textures with nothing chosen but the length, sampled as the others."""
    file, run = folder / f"{hue}.npz", folder / f"default-{hue}"
    np.savez(file, images=textures(hue, side=8))
    with contextlib.redirect_stdout(io.StringIO()):
        assert alphabar(["train", str(file), "--out", str(run), "--steps", str(steps), "run.threads=1"]) == 0
    denoiser, images = ab.load(run), ab.open_source(str(file))
    samples = sampled(denoiser, CHAIN)
    return {
        "hue": hue,
        "prediction": PREDICTIONS.name_of(denoiser.prediction),
        "steps": steps,
        **drift(samples, torch.from_numpy(np.array(images.pixels))),
    }


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` found, from ``file`` if it was made before."""
    if not file.exists():
        print(file.stem, flush=True)
        found = make()
        file.with_suffix(".part").write_text(json.dumps(found))
        file.with_suffix(".part").rename(file)
    return json.loads(file.read_text())


def arms() -> list[Arm]:
    """Every goal and batch once, ε and v with a second seed."""
    first = [Arm(goal, batch, 0) for goal in GOALS for batch in (32, 8)]
    first[0] = replace(first[0], chains=(CHAIN, 100, 1000))
    second = [Arm(goal, 32, 1) for goal in ("eps", "v")]
    return [*first, *second]


def worst(found: dict[str, Any]) -> float:
    """The largest drift of a channel, in 1/255."""
    return max(map(abs, found["drift"]))


def at_the_end(run: dict[str, Any], weights: str = "ema 5 %", chain: int = CHAIN) -> dict[str, Any]:
    """The cell of the last step."""
    cells = [cell for cell in run["cells"] if (cell["weights"], cell["chain"]) == (weights, chain)]
    return max(cells, key=lambda cell: cell["step"])


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """Left: how wrong the first guess of the colour is at each t. Right: what that does to samples."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 3.8), dpi=110, layout="constrained")
    left, right = sheet.subplots(1, 2)
    base = [run for run in runs if run["hue"] == "pink"]
    for number, goal in enumerate(GOALS):
        (shown,) = [run for run in base if (run["goal"], run["batch"], run["seed"]) == (goal, 32, 0)]
        left.plot(
            TIMES, [max(map(abs, bias)) for bias in shown["guesses"]], "o-", label=GOALS[goal], color=f"C{number}"
        )
        for batch, mark in ((8, "v"), (32, "o")):
            heights = [worst(at_the_end(run)) for run in base if (run["goal"], run["batch"]) == (goal, batch)]
            right.plot([number + (batch - 20) / 80] * len(heights), heights, mark, color=f"C{number}")
    left.set(
        xlabel="t",
        ylabel="worst channel of the mean of x̂₀ − x₀, 1/255",
        yscale="log",
        title="What the network thinks the colour is",
    )
    left.legend()
    right.set(
        ylabel="worst channel of samples − data, 1/255", yscale="log", title="Colour of samples (▾ batch 8, ● batch 32)"
    )
    right.set_xticks(range(len(GOALS)), list(GOALS.values()))
    right.axhline(2, color="0.6", linestyle="--", linewidth=1)
    sheet.savefig(path)


def numbers(values: list[float], signed: bool = True) -> str:
    return " / ".join(f"{value:{'+' if signed else ''}.1f}" for value in values)


def row(run: dict[str, Any], cell: dict[str, Any]) -> str:
    ratios = " / ".join(f"{ratio:.2f}" for ratio in cell["deviation_ratio"])
    given = [GOALS[run["goal"]], run["batch"], run["hue"], run["side"], run["seed"], f"{cell['step']:,}"]
    found = [cell["weights"], cell["chain"], numbers(cell["drift"]), numbers(cell["error"], signed=False), ratios]
    return f"| {' | '.join(map(str, [*given, *found]))} |"


def report(runs: list[dict[str, Any]], defaults: list[dict[str, Any]], steps: int) -> list[str]:
    lines = [
        f"1,000 textures of one hue, networks of 42,000 weights, AdamW at a constant 1e-3, {steps} steps; "
        f"{SAMPLES} samples for each line, ancestral, seeds 0 to 199. Drift: mean of red / green / blue over samples "
        "minus that of the training images, in 1/255, and its standard error. Deviation: of pixels of samples over "
        "that of data. EMA: half-life as a share of the run. [What it means](../colour-drift.md).",
        "",
        "| predicts | batch | hue | side | seed | step | weights | hops | drift | standard error | deviation |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(row(run, cell) for run in runs for cell in run["cells"]),
        "",
        "Held-out images, which no network made, differ from the training images by "
        f"{numbers(runs[0]['unseen images']['drift'])} ± {numbers(runs[0]['unseen images']['error'], signed=False)}.",
    ]
    if defaults:
        lines += [
            "",
            "What `alphabar train` chooses for such images at 8×8 (network, batch 128, decaying rate, EMA) and "
            "a fifth of its length:",
            "",
            "| hue | predicts | steps | drift | standard error | deviation |",
            "|---|---|---|---|---|---|",
        ]
        for found in defaults:
            ratios = " / ".join(f"{ratio:.2f}" for ratio in found["deviation_ratio"])
            errors = " / ".join(f"{value:.2f}" for value in found["error"])
            given = f"{found['hue']} | {GOALS[found['prediction']]} | {found['steps']:,}"
            lines.append(f"| {given} | {numbers(found['drift'])} | {errors} | {ratios} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/colour-drift"))
    parser.add_argument("--steps", type=int, default=800)
    arguments = parser.parse_args()
    folder, steps = arguments.runs, arguments.steps
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    runs = [kept(folder / f"{arm.name}.json", partial(train, arm, steps)) for arm in arms()]
    defaults = [kept(folder / f"default-{hue}.json", partial(default_recipe, folder, hue, steps)) for hue in DEFAULTS]
    write("colour_drift", "Colour drift", {"runs": runs, "defaults": defaults}, report(runs, defaults, steps))
    figure(runs, RESULTS.parent / "images" / "colour_drift.png")


if __name__ == "__main__":
    main()
