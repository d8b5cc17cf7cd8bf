"""Speed and memory beside the peers. ``make bench`` runs it; results go to ``docs/results/bench.*`` and ``speed.*``.

    python scripts/bench.py [--parts PART ...] [--run RUN] [--peers-source DIR] [--same-settings] [--quick]

- ``peers``: the paper's CIFAR-10 network, 8 images: forward pass and training step of ours, of each peer as it ships,
  and of each peer in the fastest setting found by trying. All take turns, on the same threads.
- ``plain``: our networks for digits and MNIST against the same networks in a plain loop.
- ``operators`` of which there are two forms, and which of them is chosen.
- ``memory`` per image of a training step and of a forward pass.
- ``laws`` of growth: time and memory against batch, image size, channels and chain length, beside their work.
- ``promises``: what this version promises (``benchmark/promises.py``).

The fastest settings of the peers take most of the time to find; ``--same-settings`` takes those found the last time.

The first two also measure the fastest 3×3 convolution of the machine, and say what share of it ours reaches. Each part
is kept as soon as it is measured, beside what was measured of the others before.

``--quick`` only shows that everything runs: small images and batches, peers only as they ship; results go to
``build/bench``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmark import operators, promises, scaling, tables
from benchmark.ceiling import convolution_rate, work
from benchmark.race import OURS, Failed, Timed, Worker, race
from benchmark.sources import HOME, PACKAGES, REPOSITORIES, checkout, environment_python
from benchmark.spec import Spec
from results import RESULTS, machine, write

from alphabar.runtime.recipes import has_bf16

ACTIONS = {"forward": 1, "step": 1}
QUICK = Path("build") / "bench"


def peers(given: Path | None, base: Spec, notes: list[str]) -> list[Spec]:
    """The peers that are installed, as they ship; ``notes`` get why others are not."""
    found = []
    for name in (*PACKAGES, *REPOSITORIES):
        try:
            environment_python()
            sources = str(checkout(name, given).parent) if name in REPOSITORIES else ""
            found.append(replace(base, contestant=name, settings=(), sources=sources))
        except Failed as reason:
            notes.append(str(reason))
    return found


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


def compete(
    specs: Sequence[Spec],
    notes: list[str],
    seconds: float,
    least: int = 4,
    actions: Mapping[str, int] = ACTIONS,
) -> list[Timed]:
    """A race between those that can be built."""
    workers = start_all(specs, notes)
    try:
        return race(workers, actions, notes, seconds=seconds, least=least)
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


def last_time(where: Path) -> dict[str, Any]:
    """The parts as they were measured the last time, by name."""
    file = where / "bench.json"
    parts: dict[str, Any] = json.loads(file.read_text())["parts"] if file.exists() else {}
    return parts


def found_before(shipped: Spec, where: Path) -> dict[str, Spec]:
    """The fastest settings of a peer as they were found the last time; empty if they were not."""
    settings = last_time(where).get("peers", {}).get("fastest", {}).get(shipped.contestant, {})
    return {action: replace(shipped, settings=tuple(several)) for action, several in settings.items()}


def rates(quick: bool) -> dict[str, float]:
    """The fastest 3×3 convolution in each precision that the machine has, in FLOP/s."""
    found = {"fp32": convolution_rate(seconds=0.1 if quick else 1.5)}
    if has_bf16():
        found["bf16"] = convolution_rate(torch.bfloat16, seconds=0.1 if quick else 1.5)
    return found


def shares(timed: Sequence[Timed], quick: bool) -> tuple[dict[str, Any], list[str]]:
    """What each of ours reaches of the machine's fastest convolution: facts, and a table."""
    flops = {model: work(Spec("alphabar", model)) for model in {one.spec.model for one in timed}}
    fastest_convolution = rates(quick)
    facts = {
        "flops_per_image": flops,
        "gflops_of_the_machine": {name: rate / 1e9 for name, rate in fastest_convolution.items()},
    }
    return facts, tables.shares(timed, flops, fastest_convolution)


def sparing(ours: Spec) -> Spec:
    """Ours with activation checkpointing."""
    return replace(ours, settings=(*ours.settings, "checkpointing"))


def beside_peers(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Every contestant at the paper's network."""
    shipped = peers(given.peers_source, ours, notes)
    settings: dict[str, dict[str, Spec]] = {}
    specs = [ours, sparing(ours), replace(ours, contestant="naive", settings=())]
    if not given.quick:
        specs.append(replace(ours, settings=(*ours.settings, "compile")))
    for spec in shipped:
        best = found_before(spec, folder(given)) if given.same_settings else {}
        best = best or fastest(spec, notes, quick=given.quick)
        if best:
            settings[spec.contestant] = best
            specs += {one.label: one for one in (spec, *best.values())}.values()
    timed = compete(specs, notes, 0, least=1) if given.quick else compete(specs, notes, 120)
    facts, shared = shares(timed, given.quick)
    facts |= {
        "timed": [tables.plain(one) for one in timed],
        "fastest": {who: {action: spec.settings for action, spec in best.items()} for who, best in settings.items()},
        "versions": tables.versions(environment_python()) if settings else {},
        "commits": {name: commit for name, (_, commit) in REPOSITORIES.items()},
    }
    return facts, [*tables.beside_peers(timed, ours), *shared]


def beside_plain(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Our networks and the same networks in a plain loop."""
    pairs = []
    for model, batch in (("digits", 128), ("mnist", 32)):
        spec = replace(ours, model=model, batch=2 if given.quick else batch, size=None)
        pair = [spec, replace(spec, contestant="naive", settings=())]
        pairs.append(compete(pair, notes, 0, least=1) if given.quick else compete(pair, notes, 30))
    timed = [one for pair in pairs for one in pair]
    facts, shared = shares(timed, given.quick)
    return {**facts, "timed": [tables.plain(one) for one in timed]}, [*tables.beside_plain(pairs), *shared]


def both_forms(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The operators of which there are two."""
    convolutions = operators.convolutions(((1, 8, 8, 8),), 1) if given.quick else operators.convolutions()
    norms = operators.norms(((1, 8, 2, 8),), 1) if given.quick else operators.norms()
    return {"convolutions": convolutions, "norms": norms}, tables.operators(convolutions, norms)


def memory(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Bytes that one more image takes in each action: the difference between the peaks of two processes."""
    shipped = peers(given.peers_source, ours, notes)
    few, many = 1, 3 if given.quick else 9
    per_image: dict[str, dict[str, float]] = {}
    for spec in (ours, sparing(ours), *shipped):
        peaks: dict[str, list[int]] = {}
        try:
            for batch in (few, many):
                with start(replace(spec, batch=batch, hops=2)) as worker:
                    # in the order of what they need, since a peak only grows
                    for action in sorted(worker.actions, key=("forward", "sample", "step").index):
                        worker.seconds(action, 2)
                        peaks.setdefault(action, []).append(worker.peak)
        except Failed as reason:
            notes.append(str(reason))
            continue
        per_image[spec.label] = {action: (high - low) / (many - few) for action, (low, high) in peaks.items()}
    return {"bytes_per_image": per_image}, tables.memory(per_image)


def growth(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The laws, and their picture."""
    laws = {law.name: scaling.measure(law, ours.threads, quick=given.quick) for law in scaling.LAWS}
    folder(given).mkdir(parents=True, exist_ok=True)
    scaling.plot(laws, folder(given) / "bench_scaling.png")
    return {"laws": laws}, tables.laws(laws)


def promised(ours: Spec, given: argparse.Namespace, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What is promised has a page of its own."""
    promises.check(given.run, folder(given), quick=given.quick)
    return {}, ["## Promises", "", "See [speed.md](speed.md).", ""]


PARTS: dict[str, Callable[[Spec, argparse.Namespace, list[str]], tuple[dict[str, Any], list[str]]]] = {
    "peers": beside_peers,
    "plain": beside_plain,
    "operators": both_forms,
    "memory": memory,
    "laws": growth,
    "promises": promised,
}


def folder(given: argparse.Namespace) -> Path:
    """Where results go."""
    return QUICK if given.quick else RESULTS


def keep(name: str, facts: dict[str, Any], lines: list[str], where: Path) -> None:
    """Put a part in place of its last measurement, and write the page of all parts anew."""
    on = machine()
    stamp = f"*{on['date']}, {on['processor']}, {on['cores']} cores, torch {on['torch']}, alphabar at {on['commit']}*"
    found = {**last_time(where), name: {"on": on, **facts, "page": [*lines, stamp, ""]}}
    parts = {part: found[part] for part in PARTS if part in found}
    pages = [line for one in parts.values() for line in one["page"]]
    write("bench", "Beside the peers", {"parts": parts}, pages, where, "python scripts/bench.py --parts PART")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--run", type=Path, help="a run for `alphabar sample`; without it, a fresh one of one step")
    parser.add_argument("--peers-source", type=Path, help="folder with pytorch-ddpm/ and guided-diffusion/")
    parser.add_argument("--same-settings", action="store_true", help="the peers' fastest settings of the last time")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    given = parser.parse_args()
    batch, settings = 1 if given.quick else 8, ("bf16",) if has_bf16() else ()
    ours = Spec("alphabar", "cifar10", batch=batch, settings=settings, threads=torch.get_num_threads())
    for part in given.parts:
        began, notes = time.perf_counter(), list[str]()
        facts, lines = PARTS[part](ours, given, notes)
        seconds = time.perf_counter() - began
        keep(
            part,
            {"seconds": seconds, **facts, "not_measured": notes},
            [*lines, *tables.not_measured(notes)],
            folder(given),
        )
        print(f"{part}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
