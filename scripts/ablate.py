"""The paper's Table 2 on MNIST: what the network predicts, and what it is trained on. ``make ablate MNIST=FILE``.

    python scripts/ablate.py mnist.npz [--rows 1,2,…,6] [--steps 4000] [--samples 1000] [--T 250] [--jobs 2]

Six networks of the same size see the same images in the same order for the same number of steps. They predict μ̃ or ε,
and are trained on the bound with a learned diagonal Σ, on the bound with a fixed isotropic Σ, or on the unweighted
error. Each is judged by ancestral samples through all T steps in the features of a classifier that none was tuned on,
and by its bound on the test images.

Cost with the settings above, on one core with AVX2: about fifteen minutes for each network. Longer settings take hours,
so ``--rows`` measures some of the rows, and the table takes the others from ``docs/results/ablation.json`` where they
were measured with the same settings. Networks are trained ``--jobs`` at a time, one core each. A stopped run goes on
where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mnist32 import need_classifier, padded
from results import RESULTS, machine, write

from alphabar.cli.main import main as alphabar

# name: (what the network predicts, objective, variance), and Inception Score and FID of the paper's Table 2
ROWS: dict[str, tuple[tuple[str, str, str], tuple[float, float] | None]] = {
    "μ̃, L, learned diagonal Σ": (("mean", "bound", "learned"), (7.28, 23.69)),
    "μ̃, L, fixed isotropic Σ": (("mean", "bound", "fixed_large"), (8.06, 13.22)),
    "μ̃, unweighted ‖μ̃ − μ̃_θ‖²": (("mean", "simple", "fixed_large"), None),
    "ε, L, learned diagonal Σ": (("eps", "bound", "learned"), None),
    "ε, L, fixed isotropic Σ": (("eps", "bound", "fixed_large"), (7.67, 13.51)),
    "ε, L_simple": (("eps", "simple", "fixed_large"), (9.46, 3.17)),
}
NETWORK = [
    "schedule.kind=linear",
    "net.base_channels=16",
    "net.norm_groups=4",
    "net.base_channels_multiples=[1,2,2]",
    "net.apply_attention=[false,false,false]",
    "net.num_res_blocks=1",
    "net.dropout_rate=0.0",
    "net.patch_size=2",
    "run.batch=32",
    "run.precision=fp32",
    "optim.lr=2e-3",
]


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of one ``alphabar`` command."""
    print("alphabar", *arguments, flush=True)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = alphabar(list(arguments))
    return code, out.getvalue()


def one(name: str, files: tuple[Path, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one row of the table."""
    prediction, objective, variance = ROWS[name][0]
    run = arguments.runs / f"{prediction}-{objective}-{variance}"
    choices = [f"denoiser.prediction={prediction}", f"objective.kind={objective}", f"denoiser.variance={variance}"]
    length = ["--steps", str(arguments.steps), "run.threads=1", f"run.preview_every={arguments.steps}"]
    chain = f"schedule.T={arguments.T}"  # after the kind of the schedule, which would reset it
    code, _ = command("train", str(files[0]), "--out", str(run), *length, *NETWORK, chain, *choices)
    if code == 6:
        return {"name": name, "diverged": json.loads((run / "run.json").read_text())["step"]}
    assert code == 0, f"training ended with {code}"
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held_out = [line["held_out_loss"] for line in losses if "held_out_loss" in line]
    samples = [
        "--metrics",
        "fid,kid,is",
        "-n",
        str(arguments.samples),
        "--steps",
        str(arguments.T),
        "--features",
        "mnist",
    ]
    code, scores = command("evaluate", str(run), *samples, "--json")
    bound = ["--metrics", "bpd", "--hops", "49", "-n", "500", "--data", str(files[1])]
    code_of_bound, bits = command("evaluate", str(run), *bound, "--json")
    found = {"name": name, "held_out_loss": held_out[-1]}
    if code:
        return {**found, "unusable": f"evaluate ended with {code}"}
    assert code_of_bound == 0
    numbers, likelihood = json.loads(scores), json.loads(bits)
    for result in (numbers, likelihood):
        result["card"]["model"].pop("name")  # where the run lies says nothing
    return {**found, **numbers, "bound": likelihood}


def ordering(found: dict[str, dict[str, Any]]) -> list[str]:
    """Every pair of measured rows that the paper gives a FID for: is the same one better here?"""
    scored = [name for name in found if ROWS[name][1] is not None and "fid" in found[name]]
    lines = []
    for i, a in enumerate(scored):
        for b in scored[i + 1 :]:
            better, worse = sorted((a, b), key=lambda name: ROWS[name][1][1])  # type: ignore[index]
            here = found[better]["fid"], found[worse]["fid"]
            verdict = "as here" if here[0] < here[1] else "**not** here"
            lines.append(f"- {better} before {worse}: {verdict} ({here[0]:.3g} and {here[1]:.3g}).")
    return lines


def kept(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that were measured before with the same settings."""
    file = RESULTS / "ablation.json"
    before = json.loads(file.read_text()) if file.exists() else {"settings": None}
    return {row["name"]: row for row in before["rows"]} if before["settings"] == settings else {}


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    paper = ROWS[result["name"]][1]
    quoted = f"{paper[0]} / {paper[1]}" if paper else "unstable / –"
    if "fid" not in result:
        why = f"diverged at step {result['diverged']}" if "diverged" in result else result["unusable"]
        return f"| {result['name']} | {why} | – | – | – | {quoted} |"
    bits = result["bound"]
    return (
        f"| {result['name']} | {result['inception_score']:.2f} ± {result['inception_score_std']:.2f} | "
        f"{result['fid']:.3g} | {result['kid']:.3g} ± {result['kid_standard_error']:.1g} | "
        f"{bits['bits_per_dim']:.3f} ± {bits['bits_per_dim_standard_error']:.3f} | {quoted} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--rows", default="1,2,3,4,5,6")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--T", type=int, default=250)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    arguments = parser.parse_args()
    files = padded(arguments.mnist, arguments.runs)
    need_classifier(str(files[0]))
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes that start now: each row has one core
    settings = {"steps": arguments.steps, "samples": arguments.samples, "T": arguments.T, "network": NETWORK}
    wanted = [list(ROWS)[int(number) - 1] for number in arguments.rows.split(",")]
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        measured = list(pool.map(partial(one, files=files, arguments=arguments), wanted))
    known = kept(settings) | {row["name"]: {**row, "machine": machine()} for row in measured}
    found = {name: known[name] for name in ROWS if name in known}
    lines = [
        f"Each row: a U-Net of the same size trained for {arguments.steps:,} steps of 32 MNIST images (32×32), "
        f"T = {arguments.T}; EMA weights; {arguments.samples:,} samples by all T steps; FID, KID and Inception "
        "Score in the features of a classifier of MNIST (they compare with each other, not with Inception's); "
        "bits/dim on 500 test images from 50 network calls each.",
        "",
        "| trained to predict, on | Inception Score | FID | KID | bits/dim | paper (CIFAR-10): IS / FID |",
        "|---|---|---|---|---|---|",
        *[row(result) for result in found.values()],
        *[f"| {name} | not measured | – | – | – | – |" for name in ROWS if name not in found],
        "",
        "The paper's order by FID, pair by pair:",
        "",
        *ordering(found),
    ]
    write("ablation", "Table 2 of the paper, on MNIST", {"settings": settings, "rows": list(found.values())}, lines)


if __name__ == "__main__":
    main()
