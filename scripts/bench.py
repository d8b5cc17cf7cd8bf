"""Speed and memory beside the peers. ``make bench`` runs it; results go to ``docs/results/bench.*`` and ``speed.*``.

    python scripts/bench.py [--run RUN] [--peers-source DIR] [--quick]

- The paper's CIFAR-10 network, 8 images: forward pass and training step of ours, of each peer as it ships, and of each
  peer in the fastest setting found by trying. All take turns, on the same threads.
- Our networks for digits and MNIST against the same networks in a plain loop.
- The fastest 3×3 convolution of this machine, and the share of it that each of ours reaches.
- Memory per image of a training step and of a forward pass.
- Laws of growth: time and memory against batch, image size, channels and chain length, beside their work.
- What this version promises (``benchmark/promises.py``).

``--quick`` only shows that everything runs: small images and batches, peers only as they ship; results go to
``build/bench``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmark import promises, scaling, tables
from benchmark.ceiling import convolution_rate, work
from benchmark.race import OURS, Failed, Timed, Worker, race
from benchmark.sources import HOME, PACKAGES, REPOSITORIES, checkout, environment_python
from benchmark.spec import Spec
from results import RESULTS, write

from alphabar.runtime.recipes import has_bf16

ACTIONS = {"forward": 1, "step": 1}
QUICK = Path("build") / "bench"


def peers(given: Path | None, base: Spec) -> tuple[list[Spec], list[str]]:
    """The peers that are installed, as they ship, and in words why others are not."""
    found, missing = [], []
    for name in (*PACKAGES, *REPOSITORIES):
        try:
            environment_python()
            sources = str(checkout(name, given).parent) if name in REPOSITORIES else ""
            found.append(replace(base, contestant=name, settings=(), sources=sources))
        except Failed as reason:
            missing.append(str(reason))
    return found, missing


def start(spec: Spec) -> Worker:
    """The worker of a contestant, in its environment."""
    if spec.contestant in OURS:
        return Worker(spec, cache=HOME / "compiled")
    return Worker(spec, environment_python(), cache=HOME / "compiled")


def start_all(specs: Sequence[Spec], notes: list[str]) -> list[Worker]:
    workers = []
    for spec in specs:
        try:
            workers.append(start(spec))
        except Failed as reason:
            notes.append(str(reason))
    return workers


def compete(specs: Sequence[Spec], notes: list[str], seconds: float, least: int = 4) -> list[Timed]:
    """A race between those that can be built."""
    workers = start_all(specs, notes)
    try:
        return race(workers, ACTIONS, notes, seconds=seconds, least=least)
    finally:
        for worker in workers:
            worker.close()


def fastest(shipped: Spec, notes: list[str], *, quick: bool) -> dict[str, Spec]:
    """The fastest setting of a peer for each action: layouts race first, then the better one is compiled."""
    if quick:
        return dict.fromkeys(ACTIONS, shipped)
    layouts: list[tuple[str, ...]] = [(), ("channels_last",)]
    if shipped.contestant == "denoising-diffusion-pytorch":
        layouts += [("flash",), ("flash", "channels_last")]
    if has_bf16():
        layouts += [("bf16", *layout) for layout in layouts]
    tried: list[Timed] = []

    def trial(settings: Sequence[tuple[str, ...]]) -> None:
        tried.extend(compete([replace(shipped, settings=one) for one in settings], notes, 0, least=2))

    trial(layouts)
    if tried:
        best = min(tried, key=lambda one: sum(one.median(action) for action in ACTIONS))
        trial([(*best.spec.settings, "compile")])
    for one in tried:
        print(f"  {one.spec.label}: " + ", ".join(f"{a} {1000 * one.median(a):.1f} ms" for a in ACTIONS), flush=True)
    return {action: min(tried, key=lambda one: one.median(action)).spec for action in ACTIONS} if tried else {}


def beside_peers(ours: Spec, given: Path | None, *, quick: bool) -> dict[str, Any]:
    """Every contestant at the paper's network, and notes on what could not be measured."""
    shipped, notes = peers(given, ours)
    settings: dict[str, dict[str, Spec]] = {}
    sparing = replace(ours, settings=(*ours.settings, "checkpointing"))
    specs = [ours, sparing, replace(ours, contestant="naive", settings=())]
    if not quick:
        specs.append(replace(ours, settings=(*ours.settings, "compile")))
    for spec in shipped:
        best = fastest(spec, notes, quick=quick)
        if best:
            settings[spec.contestant] = best
            specs += {one.label: one for one in (spec, *best.values())}.values()
    timed = compete(specs, notes, 0, least=1) if quick else compete(specs, notes, 120)
    return {"timed": timed, "fastest": settings, "notes": notes, "shipped": [ours, sparing, *shipped]}


def memory(specs: Sequence[Spec], notes: list[str], *, few: int, many: int) -> dict[str, dict[str, float]]:
    """Bytes that one more image takes in each action: the difference between the peaks of two processes."""
    per_image: dict[str, dict[str, float]] = {}
    for spec in specs:
        # in the order of what they need, since a peak only grows
        actions = ("forward", "sample", "step") if spec.contestant == "alphabar" else ("forward", "step")
        peaks: dict[str, list[int]] = {action: [] for action in actions}
        try:
            for batch in (few, many):
                with start(replace(spec, batch=batch, hops=2)) as worker:
                    for action in actions:
                        worker.seconds(action, 2)
                        peaks[action].append(worker.peak)
        except Failed as reason:
            notes.append(str(reason))
            continue
        per_image[spec.label] = {action: (high - low) / (many - few) for action, (low, high) in peaks.items()}
    return per_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run for `alphabar sample`; without it, a fresh one of one step")
    parser.add_argument("--peers-source", type=Path, help="folder with pytorch-ddpm/ and guided-diffusion/")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    given = parser.parse_args()
    quick, threads, began = given.quick, torch.get_num_threads(), time.perf_counter()
    folder = QUICK if quick else RESULTS

    def stage(text: str) -> None:
        print(f"[{time.perf_counter() - began:5.0f} s] {text}", flush=True)

    stage("the machine's convolutions")
    rates = {"fp32": convolution_rate(seconds=0.1 if quick else 1.5)}
    if has_bf16():
        rates["bf16"] = convolution_rate(torch.bfloat16, seconds=0.1 if quick else 1.5)

    stage("the paper's network beside the peers")
    ours = Spec(
        "alphabar", "cifar10", batch=1 if quick else 8, settings=("bf16",) if has_bf16() else (), threads=threads
    )
    peers_facts = beside_peers(ours, given.peers_source, quick=quick)
    notes: list[str] = peers_facts["notes"]

    stage("our networks beside a plain loop")
    plain = []
    for model, batch in (("digits", 128), ("mnist", 32)):
        spec = replace(ours, model=model, batch=2 if quick else batch, size=None)
        pair = [spec, replace(spec, contestant="naive", settings=())]
        plain.append(compete(pair, notes, 0, least=1) if quick else compete(pair, notes, 30))

    stage("work of our networks")
    flops = {model: work(Spec("alphabar", model, batch=1)) for model in ("cifar10", "mnist", "digits")}

    stage("memory")
    per_image = memory(peers_facts["shipped"], notes, few=1, many=3 if quick else 9)

    stage("laws of growth")
    laws = {law.name: scaling.measure(law, threads, quick=quick) for law in scaling.LAWS}
    folder.mkdir(parents=True, exist_ok=True)
    scaling.plot(laws, folder / "bench_scaling.png")

    stage("promises")
    promises.check(given.run, folder, quick=quick)

    seconds = time.perf_counter() - began
    timed = [*peers_facts["timed"], *(one for pair in plain for one in pair)]
    facts = {
        "seconds": seconds,
        "peers": tables.versions(environment_python()) if peers_facts["fastest"] else {},
        "commits": {name: commit for name, (_, commit) in REPOSITORIES.items()},
        "gflops_of_the_machine": {name: rate / 1e9 for name, rate in rates.items()},
        "flops_per_image": flops,
        "timed": [tables.plain(one) for one in timed],
        "bytes_per_image": per_image,
        "laws": laws,
        "not_measured": notes,
    }
    lines = [
        *tables.beside_peers(peers_facts["timed"], peers_facts["fastest"], ours),
        *tables.beside_plain(plain),
        *tables.shares(timed, flops, rates),
        *tables.memory(per_image),
        *tables.laws(laws),
        *tables.not_measured(notes),
    ]
    write("bench", "Beside the peers", facts, lines, folder)
    stage("done")


if __name__ == "__main__":
    main()
