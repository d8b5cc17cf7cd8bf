"""Quality against network calls, for every sampler: which one, with which spacing, is best at few steps?

    python scripts/quality_steps.py runs/mnist --features mnist --name mnist [-n 1000] [--calls 5 10 20 50 100]

Samples of a trained run or a saved model by every sampler in the registry, at equal numbers of network calls per image
(Heun makes half as many hops), on chains even in t and even in ln SNR; beside them the paper's ancestral sampling
through all T steps, and that with --calls 1000 for every sampler. Fréchet and kernel distance to the training images in
the given features (see ``alphabar evaluate``). What was measured before is taken from the model's folder, so that an
interrupted call goes on. Results: docs/results/samplers-NAME.md, .json and .png; what they hold of the same weights,
features and number of samples stays there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import RESULTS, machine, write

import alphabar as ab
from alphabar.cli.main import main as alphabar
from alphabar.cli.model import open_model
from alphabar.process.spacings import SPACINGS
from alphabar.samplers import SAMPLERS, network_calls


def score(arguments: argparse.Namespace, sampler: str, steps: int, spacing: str) -> dict[str, Any]:
    """FID and KID of one sampler on one chain."""
    out = io.StringIO()
    how = ["--sampler", sampler, "--steps", str(steps), f"chain.spacing={spacing}"]
    what = ["--metrics", "fid,kid", "-n", str(arguments.n), "--features", arguments.features, "--json"]
    what += ["--reference", arguments.reference]
    with contextlib.redirect_stdout(out):
        code = alphabar(["evaluate", str(arguments.run), *what, *how])
    assert code == 0, f"evaluate ended with {code}"
    found = json.loads(out.getvalue())
    numbers = {key: found[key] for key in ("fid", "kid", "kid_standard_error")}
    print(f"{sampler}, {steps} steps, {spacing}: {numbers['fid']:.4g}", flush=True)
    return {"sampler": sampler, "steps": steps, "spacing": spacing, **numbers}


def merged(file: Path, same: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` and those in ``file`` that were measured on the ``same``, by sampler, spacing and calls."""
    before = json.loads(file.read_text()) if file.exists() else {}
    kept = before.get("rows", []) if all(before.get(key) == value for key, value in same.items()) else []
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in [*kept, *rows]:
        key = row["sampler"], row["spacing"], row["calls"]
        if key not in found or found[key]["fid"] != row["fid"]:  # what was kept is of the day that it was measured on
            found[key] = row
    order = [*SAMPLERS, *SPACINGS]
    return [found[key] for key in sorted(found, key=lambda k: (order.index(k[0]), order.index(k[1]), k[2]))]


def hops_of(sampler: str, calls: int, schedule: ab.Schedule) -> int:
    """The most hops that cost at most so many network calls, and at least one."""
    rule, hops = SAMPLERS[sampler](), min(calls, schedule.T)
    while hops > 1 and network_calls(rule, ab.Chain.spaced(schedule, hops)) > calls:
        hops -= 1
    return hops


def plot(rows: list[dict[str, Any]], full: dict[str, Any], file: Path) -> None:
    """The figure: one curve per sampler, the better spacing at each number of calls."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name in dict.fromkeys(row["sampler"] for row in rows):
        best: dict[int, float] = {}
        for row in rows:
            if row["sampler"] == name:
                best[row["calls"]] = min(row["fid"], best.get(row["calls"], float("inf")))
        axes.plot(sorted(best), [best[calls] for calls in sorted(best)], marker="o", markersize=4, label=name)
    axes.axhline(full["fid"], color="grey", linestyle="--", label=f"ancestral, all {full['steps']} steps")
    axes.set(xscale="log", yscale="log", xlabel="network calls per image", ylabel="Fréchet distance")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def frechet(row: dict[str, Any], full: dict[str, Any]) -> str:
    """The Fréchet distance, in bold where it is at most 10 % above that of all steps."""
    return f"**{row['fid']:.3g}**" if row["fid"] <= 1.1 * full["fid"] else f"{row['fid']:.3g}"


def kernel(row: dict[str, Any], full: dict[str, Any]) -> str:
    """The kernel distance and its standard error, in bold where it is not above that of all steps by more than two."""
    text = f"{row['kid']:.2g} ± {row['kid_standard_error']:.1g}"
    error = math.hypot(row["kid_standard_error"], full["kid_standard_error"])
    return f"**{text}**" if row["kid"] <= full["kid"] + 2 * error else text


def table(rows: list[dict[str, Any]], cell: Callable[[dict[str, Any]], str]) -> list[str]:
    """Samplers and spacings down, network calls across."""
    calls = sorted({row["calls"] for row in rows})
    lines = [f"| sampler, spacing | {' | '.join(map(str, calls))} |", f"|---|{'---|' * len(calls)}"]
    for name, spacing in dict.fromkeys((row["sampler"], row["spacing"]) for row in rows):
        found = {row["calls"]: row for row in rows if (row["sampler"], row["spacing"]) == (name, spacing)}
        cells = [cell(found[number]) if number in found else "–" for number in calls]
        lines.append(f"| {name}, {spacing} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--features", required=True)
    parser.add_argument("--reference", default="train", help="the training images of a saved model")
    parser.add_argument("--name", required=True, help="of the results")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--spacings", nargs="+", default=["uniform", "logsnr"], choices=list(SPACINGS))
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    arguments = parser.parse_args()
    model = open_model(arguments.run)
    schedule = model.denoiser.schedule
    facts, rows = machine(), []
    on = {key: facts[key] for key in ("date", "commit")}
    for calls in arguments.calls:
        for name in arguments.samplers:
            for spacing in arguments.spacings:
                hops = hops_of(name, calls, schedule)
                if hops == schedule.T and spacing != arguments.spacings[0]:
                    continue  # there is one chain of all steps
                rows.append({**score(arguments, name, hops, spacing), "calls": calls, "on": on})
    full = score(arguments, "ancestral", schedule.T, "uniform")
    same = {"n": arguments.n, "features": arguments.features, "weights": model.weights_sha256}
    rows = merged(RESULTS / f"samplers-{arguments.name}.json", same, rows)
    plot(rows, full, RESULTS / f"samplers-{arguments.name}.png")
    kid = f"{full['kid']:.3g} ± {full['kid_standard_error']:.1g}"
    lines = [
        f"Fréchet distance of {arguments.n:,} samples to the training images in the features `{arguments.features}`, "
        f"against network calls per image, of which a row makes at most as many. All {schedule.T} steps of Algorithm "
        f"2: **{full['fid']:.4g}** (KID {kid}). Bold: at most 10 % above that.",
        "",
        *table(rows, lambda row: frechet(row, full)),
        "",
        f"![Fréchet distance against network calls](samplers-{arguments.name}.png)",
        "",
        "Kernel distance (KID) ± its standard error. Bold: not above that of all steps by more than two standard "
        "errors of the difference.",
        "",
        *table(rows, lambda row: kernel(row, full)),
    ]
    write(
        f"samplers-{arguments.name}",
        "Quality against network calls",
        {**same, "full": full, "rows": rows},
        lines,
        command=f"python scripts/quality_steps.py RUN --features {arguments.features} --name {arguments.name} "
        f"-n {arguments.n} --spacings S --calls N",
    )


if __name__ == "__main__":
    main()
