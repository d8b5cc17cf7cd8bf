"""Speed on one GPU beside diffusers. ``make bench-gpu`` runs it; results go to ``docs/results/bench-gpu.*``.

    python scripts/bench_gpu.py [--device cpu --smoke]

The paper's networks for 32×32 and 256×256: ours as ``train`` runs it, in bfloat16, compiled, and with CUDA graphs;
diffusers in bfloat16, in both layouts, compiled, and with CUDA graphs. Images per second of a training step, of a
forward pass and of one step of sampling, TFLOP/s, and the share of the card's fastest product of two matrices: each
contestant alone, so that none lacks memory. Then the fastest of these settings of ours and of diffusers' take turns at
a training step and at sampling; the ratios within their rounds are held against the goals.

``--smoke`` takes small networks of ours, small images and batches, the peer not compiled, and writes to
``build/bench``; with ``--device cpu`` it runs anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bench import compete, start
from benchmark import tables
from benchmark.ceiling import matrix_rate, work
from benchmark.race import Failed, Timed, median_ratio, race
from benchmark.sources import environment_python
from benchmark.spec import Spec
from results import RESULTS, write

BATCHES = {"cifar10": 128, "lsun256": 16}
OURS = ((), ("bf16",), ("bf16", "compile"), ("bf16", "graphs"))
DIFFUSERS = (
    ("bf16",),
    ("bf16", "channels_last"),
    ("bf16", "channels_last", "compile"),
    ("bf16", "channels_last", "graphs"),
)
NAMES = {**tables.NAMES, "sample": "step of sampling"}
GOALS = {"step": 1.3, "sample": 1.5}  # times as fast as diffusers
SHARE = {"lsun256": 0.45}  # of the matrix rate, in a training step
SMALL = {"base_channels": 32, "base_channels_multiples": [1, 2], "apply_attention": [False, True], "num_res_blocks": 1}


def contestants(device: str, notes: list[str], *, smoke: bool) -> list[list[Spec]]:
    """Who runs, one list per network; ``notes`` get why the peer is not among them."""
    lists, peers = [], DIFFUSERS[:1] if smoke else DIFFUSERS  # compiling networks of the paper's size takes minutes
    try:
        environment_python()
    except Failed as reason:
        notes.append(str(reason))
        peers = ()
    for model, batch in BATCHES.items():
        base = Spec("alphabar", model, batch=batch, device=device, threads=torch.get_num_threads(), hops=20)
        if smoke:
            base = replace(base, batch=2, hops=2, size=16 if model == "cifar10" else 64, net=SMALL)
        ours = [replace(base, settings=settings) for settings in OURS]
        lists.append([*ours, *(replace(base, contestant="diffusers", settings=settings) for settings in peers)])
    return lists


def measure(spec: Spec, notes: list[str], *, smoke: bool) -> list[Timed]:
    """One contestant alone on the card; none if it cannot run."""
    try:
        with start(spec) as worker:
            return race([worker], {"forward": 5, "step": 5, "sample": 1}, notes, seconds=0, least=1 if smoke else 7)
    except Failed as reason:
        notes.append(str(reason))
        return []


def rows(timed: Sequence[Timed], flops: dict[str, dict[str, float]], rates: dict[str, float]) -> list[str]:
    """Images per second, TFLOP/s and shares; a step of sampling is compared with the work of a forward pass."""
    lines = [
        "| network | contestant | batch | what | images/s | TFLOP/s | share of the matrix rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in timed:
        spec = one.spec
        counts = flops[spec.model]
        rate = tables.rate_of(spec, rates)
        for action in one.rounds:
            per_image = one.median(action) / (spec.hops if action == "sample" else 1)
            reached = (counts["step"] if action == "step" else counts["forward"]) / per_image
            lines.append(
                f"| {spec.model} | {spec.label} | {spec.batch} | {NAMES[action]} | {1 / per_image:.1f} | "
                f"{reached / 1e12:.3g} | {100 * reached / rate:.0f} % |"
            )
    return lines


def fastest(timed: Sequence[Timed], contestant: str, model: str, action: str) -> Timed | None:
    """The setting in which a contestant is the fastest; None if none ran."""
    own = [one for one in timed if (one.spec.contestant, one.spec.model) == (contestant, model)]
    return min(own, key=lambda one: one.median(action), default=None)


def duels(timed: Sequence[Timed], notes: list[str], *, smoke: bool) -> list[tuple[str, Timed, Timed]]:
    """For every goal and network: what is timed, ours and diffusers in the same rounds."""
    fought = []
    for model in BATCHES:
        for action in GOALS:
            pair = [fastest(timed, who, model, action) for who in ("alphabar", "diffusers")]
            specs = [one.spec for one in pair if one is not None]
            if len(specs) == 2:
                both = compete(
                    specs, notes, 0, least=1 if smoke else 7, actions={action: 1 if action == "sample" else 5}
                )
                fought += [(action, *both)] if len(both) == 2 else []
    return fought


def goals(
    fought: Sequence[tuple[str, Timed, Timed]],
    timed: Sequence[Timed],
    flops: dict[str, dict[str, float]],
    rates: dict[str, float],
) -> list[str]:
    """What was aimed at, what was reached, and whether that is enough."""
    lines = ["| network | goal | reached | |", "|---|---|---|---|"]

    def goal(model: str, text: str, aim: float, reached: float) -> None:
        lines.append(f"| {model} | {text} | {reached:.3g} | {'met' if reached >= aim else 'not met'} |")

    pairs = {(us.spec.model, action): (us, them) for action, us, them in fought}
    for model in BATCHES:
        for action, aim in GOALS.items():
            text = f"{NAMES[action]} at least {aim:g} times as fast"
            if (model, action) in pairs:
                us, them = pairs[model, action]
                goal(model, f"{us.spec.label} against {them.spec.label}: {text}", aim, median_ratio(them, us, action))
            else:
                lines.append(f"| {model} | {text} as diffusers | not measured | |")
    for model, aim in SHARE.items():
        best = fastest(timed, "alphabar", model, "step")
        if best is not None:
            share = flops[model]["step"] / best.median("step") / tables.rate_of(best.spec, rates)
            goal(model, f"{best.spec.label}: training step at {aim:g} of the matrix rate or more", aim, share)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="small networks, to show that everything runs")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_gpu: no CUDA device here; --device cpu --smoke shows that the code runs")
    if given.device == "cpu" and not given.smoke:
        raise SystemExit("bench_gpu: --device cpu measures nothing of a GPU; add --smoke")
    side = 8192 if given.device == "cuda" else 256
    rates = {
        "fp32": matrix_rate(torch.float32, given.device, side),
        "bf16": matrix_rate(torch.bfloat16, given.device, side),
    }
    notes: list[str] = []
    timed: list[Timed] = []
    flops: dict[str, dict[str, float]] = {}
    for specs in contestants(given.device, notes, smoke=given.smoke):
        flops[specs[0].model] = work(replace(specs[0], batch=1, settings=()))
        for spec in specs:
            timed += measure(spec, notes, smoke=given.smoke)
    fought = duels(timed, notes, smoke=given.smoke)
    card = torch.cuda.get_device_name() if given.device == "cuda" else "no GPU: a smoke test on the CPU"
    best = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in rates.items())
    write(
        "bench-gpu",
        "On a GPU",
        {
            "card": card,
            "matrix_tflops": {name: rate / 1e12 for name, rate in rates.items()},
            "flops_per_image": flops,
            "timed": [tables.plain(one) for one in timed],
            "in_turns": [{action: [tables.plain(one) for one in pair]} for action, *pair in fought],
            "not_measured": notes,
        },
        [
            f"{card}. Product of two matrices of side {side}: {best}.",
            "",
            *goals(fought, timed, flops, rates),
            "",
            *rows(timed, flops, rates),
            "",
            *tables.not_measured(notes),
        ],
        Path("build") / "bench" if given.smoke else RESULTS,
    )


if __name__ == "__main__":
    main()
