"""What this version promises of its own speed and memory; the results are ``docs/results/speed.*``.

- Loader: share of the time that training on the digits waits for a batch (promise: below 5 %).
- Sampling: time outside the network as a share of the time inside it, at 32×32 (at most 3 %) and at 8×8 (at most 10 %),
  by the sampler and the steps that `alphabar sample` takes where nothing else is asked for.
- Memory: peak of sampling with 20 and with 1000 steps (equal).
- Start: ``import alphabar`` (below 2 s) and ``alphabar --help`` (below 0.3 s), best of five.
- ``alphabar sample`` of 64 images from a cold start, as it comes (at most 10 s on two cores).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from results import write

import alphabar as ab
from alphabar.cli.sample import prepare
from alphabar.model.denoiser import Denoiser
from alphabar.runtime.config import from_tables, merge
from alphabar.runtime.recipes import recipe
from alphabar.samplers import SAMPLERS
from alphabar.samplers.generate import frames
from alphabar.training.trainer import build, fit, new_denoiser
from benchmark.contestants import COUNTS
from benchmark.spec import SHAPES

__all__ = ["check", "table"]

SCRIPTS = Path(__file__).resolve().parents[1]


def loader_wait(steps: int) -> dict[str, float]:
    """Seconds that training on the digits waits for batches, and their share."""
    images = ab.open_source("digits")
    tables = merge(recipe(images.shape, len(images)), {"run": {"steps": steps + 10}})
    run = build(from_tables(tables), images)
    metrics = fit(run)
    for _ in range(10):
        next(metrics)
    waited, began = run.loader.waited_seconds, time.perf_counter()
    for _ in metrics:
        pass
    seconds = time.perf_counter() - began
    waiting = run.loader.waited_seconds - waited
    return {"ms_per_step": 1000 * seconds / steps, "waiting_share": waiting / seconds}


class Stopwatch(torch.nn.Module):
    """A network that measures the time spent inside itself."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.seconds = net, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        out: torch.Tensor = self.net(x, t)
        self.seconds += time.perf_counter() - began
        return out


def outside_share(model: str, batch: int, steps: int | None, rounds: int) -> dict[str, Any]:
    """Time outside the network of ``model`` over time inside it, in ``steps`` or as many as is usual; medians."""
    config = from_tables(recipe(SHAPES[model], COUNTS[model]))
    denoiser: Denoiser = new_denoiser(config, SHAPES[model]).eval()
    rule, chain, denoiser = prepare(denoiser, None, steps, quiet=True)
    denoiser.net = watch = Stopwatch(denoiser.net)
    inside, shares = [], []
    for _ in range(rounds + 1):
        watch.seconds, began = 0.0, time.perf_counter()
        for _ in frames(denoiser, rule, chain, range(batch)):
            pass
        inside.append(watch.seconds)
        shares.append((time.perf_counter() - began - watch.seconds) / watch.seconds)
    return {
        "sampler": SAMPLERS.name_of(rule),
        "steps": len(chain),
        "overhead_share": statistics.median(shares[1:]),
        "ms_per_hop_in_network": 1000 * statistics.median(inside[1:]) / len(chain),
    }


def peak_after(steps: int) -> float:
    """Peak memory in MB of a process that samples 64 images of 3x32x32 in ``steps`` steps of a trivial network."""
    code = f"""
import alphabar as ab
from alphabar.samplers.generate import frames
from benchmark.worker import peak_bytes
schedule = ab.schedules.Linear().build()
denoiser = ab.Denoiser(lambda x, t: 0.1 * x, schedule, shape=(3, 32, 32), variance=ab.FixedSmall())
for frame in frames(denoiser, ab.samplers.Ancestral(), ab.Chain.spaced(schedule, {steps}), range(64)): pass
print(peak_bytes() / 1e6)
"""
    paths = {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **paths}
    )
    return float(done.stdout)


def seconds_of(command: Sequence[str]) -> float:
    """Wall seconds of a command."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - began


def cold_samples(run: Path | None, how: Sequence[str]) -> dict[str, Any]:
    """``alphabar sample`` of 64 images by ``run``, else by a run of the recipe for MNIST that has made one step."""
    alphabar = [sys.executable, "-m", "alphabar"]
    with tempfile.TemporaryDirectory() as folder:
        about = "the run given" if run is not None else "the recipe's network for MNIST"
        if run is None:
            run = Path(folder) / "run"
            channels, height, width = SHAPES["mnist"]
            pixels = np.random.default_rng(0).integers(0, 256, (64, channels, height, width), dtype=np.uint8)
            np.savez(Path(folder) / "noise.npz", images=pixels[:, 0])
            config = Path(folder) / "net.toml"
            config.write_text(tomli_w.dumps({"net": recipe(SHAPES["mnist"], COUNTS["mnist"])["net"]}))
            training = ["train", str(Path(folder) / "noise.npz"), "--config", str(config), "--out", str(run)]
            subprocess.run([*alphabar, *training, "--steps", "1", "run.batch=2"], capture_output=True, check=True)
        out = Path(folder) / "samples"
        seconds = seconds_of([*alphabar, "sample", str(run), "-n", "64", "--out", str(out), *how])
        steps = len(json.loads((out / "manifest.json").read_text())["times"]) - 1
    return {"seconds": seconds, "images": 64, "steps": steps, "of": about}


def table(facts: Mapping[str, Any]) -> list[str]:
    """What was measured, what is promised, and whether it is kept."""
    loader, (large, small), cold = facts["loader"], facts["sampling"].values(), facts["cold_samples"]
    few, many = facts["memory_mb"].values()
    peaks = f"{few:.0f} / {many:.0f} MB"
    import_, help_ = facts["start_seconds"].values()

    def outside(facts: Mapping[str, Any]) -> str:
        return f"{100 * facts['overhead_share']:.1f} % of the network's {facts['ms_per_hop_in_network']:.3g} ms per hop"

    def sampling(size: str, facts: Mapping[str, Any]) -> str:
        return f"sampling outside the network, {size}, batch 64, {facts['steps']} steps of {facts['sampler']}"

    waits = f"{100 * loader['waiting_share']:.2f} % of {loader['ms_per_step']:.0f} ms per step"
    cold_start = f"`alphabar sample` of 64 images from a cold start, {cold['steps']} steps, {cold['of']}"
    rows = [
        ("training on the digits waits for data", waits, "< 5 %", loader["waiting_share"] < 0.05),
        (sampling("32x32", large), outside(large), "≤ 3 %", large["overhead_share"] <= 0.03),
        (sampling("8x8", small), outside(small), "≤ 10 %", small["overhead_share"] <= 0.1),
        ("peak memory of sampling, 20 / 1000 steps", peaks, "equal", abs(many - few) <= 0.02 * few),
        ("`import alphabar` and its first use of torch", f"{import_:.2f} s", "≤ 2 s", import_ <= 2),
        ("`alphabar --help`", f"{help_:.2f} s", "≤ 0.3 s", help_ <= 0.3),
        (cold_start, f"{cold['seconds']:.1f} s", "≤ 10 s", cold["seconds"] <= 10),
    ]
    return [
        "| what | measured | promise | kept |",
        "|---|---|---|---|",
        *(
            f"| {what} | {measured} | {promise} | {'yes' if kept else '**no**'} |"
            for what, measured, promise, kept in rows
        ),
    ]


def check(run: Path | None, folder: Path, *, quick: bool) -> None:
    """Measure all of it and write ``speed.*`` into ``folder``."""
    python = sys.executable
    times = 1 if quick else 5
    loader = loader_wait(10 if quick else 150)
    large, small = (
        outside_share(model, 2 if quick else 64, 4 if quick else None, 1 if quick else 5)
        for model in ("mnist", "digits")
    )
    memory = {str(steps): peak_after(steps) for steps in (20, 1000)}
    import_ = min(seconds_of([python, "-c", "import alphabar; alphabar.Denoiser"]) for _ in range(times))
    help_ = min(seconds_of([python, "-m", "alphabar", "--help"]) for _ in range(times))
    cold = cold_samples(run, ["--steps", "2"] if quick else [])
    facts = {
        "loader": loader,
        "sampling": {"32x32": large, "8x8": small},
        "memory_mb": memory,
        "start_seconds": {"import alphabar": import_, "alphabar --help": help_},
        "cold_samples": cold,
    }
    write("speed", "Speed and memory", facts, table(facts), folder)
