"""Speed on one GPU beside diffusers. ``make bench-gpu`` runs it; results go to ``docs/results/bench-gpu.*``.

    python scripts/bench_gpu.py [--device cpu --smoke]

The paper's networks for 32×32 and 256×256: ours as ``train`` runs it, in bfloat16, compiled, and with CUDA graphs;
diffusers compiled in bfloat16. Images per second of a training step, of a forward pass and of one step of sampling,
TFLOP/s, and the share of the card's fastest product of two matrices.

``--smoke`` takes small networks and writes to ``build/bench``; with ``--device cpu`` it runs anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bench import start
from benchmark import tables
from benchmark.ceiling import matrix_rate, work
from benchmark.race import Failed, Timed, race
from benchmark.spec import Spec
from results import RESULTS, write

BATCHES = {"cifar10": 128, "lsun256": 16}
OURS = ((), ("bf16",), ("bf16", "compile"), ("bf16", "graphs"))
DIFFUSERS = (("bf16", "channels_last"), ("bf16", "channels_last", "compile"))
SMALL = {"base_channels": 32, "base_channels_multiples": [1, 2], "apply_attention": [False, True], "num_res_blocks": 1}


def contestants(device: str, *, smoke: bool) -> list[list[Spec]]:
    """Who runs, one list per network."""
    lists = []
    for model, batch in BATCHES.items():
        base = Spec("alphabar", model, batch=batch, device=device, threads=torch.get_num_threads(), hops=20)
        if smoke:
            base = replace(base, batch=2, hops=2, size=16, net=SMALL)
        ours = [replace(base, settings=settings) for settings in OURS]
        theirs = [] if smoke else [replace(base, contestant="diffusers", settings=one) for one in DIFFUSERS]
        lists.append([*ours, *theirs])
    return lists


def measure(spec: Spec, notes: list[str], *, smoke: bool) -> list[Timed]:
    """One contestant alone, since the card is not shared; none if it cannot run."""
    actions = {"forward": 5, "step": 5, **({"sample": 1} if spec.contestant == "alphabar" else {})}
    try:
        with start(spec) as worker:
            rounds = 1 if smoke else 7
            return race([worker], actions, notes, seconds=0, least=rounds)
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
        rate = rates["bf16" if "bf16" in spec.settings else "fp32"]
        for action in one.rounds:
            per_image = one.median(action) / (spec.hops if action == "sample" else 1)
            reached = (counts["step"] if action == "step" else counts["forward"]) / per_image
            what = {"forward": "forward", "step": "training step", "sample": "step of sampling"}[action]
            lines.append(
                f"| {spec.model} | {spec.label} | {spec.batch} | {what} | {1 / per_image:.1f} | {reached / 1e12:.3g} | "
                f"{100 * reached / rate:.0f} % |"
            )
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
    for specs in contestants(given.device, smoke=given.smoke):
        flops[specs[0].model] = work(replace(specs[0], batch=1, settings=()))
        for spec in specs:
            timed += measure(spec, notes, smoke=given.smoke)
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
            "not_measured": notes,
        },
        [
            f"{card}. Product of two matrices of side {side}: {best}.",
            "",
            *rows(timed, flops, rates),
            "",
            *tables.not_measured(notes),
        ],
        Path("build") / "bench" if given.smoke else RESULTS,
    )


if __name__ == "__main__":
    main()
