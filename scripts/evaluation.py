"""Does ``alphabar evaluate`` keep its promises on a real model? ``make campaign`` runs it on a digits run.

    python scripts/evaluation.py [RUN]

Estimates of the bound against all hops, copies of a healthy and of an overfitted model, the announced time against the
time taken, and what a second evaluation costs. Results: ``docs/results/evaluation.*``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import write

import alphabar as ab
from alphabar.cli.main import main as alphabar
from alphabar.evaluation.pilot import PILOT_CALLS

HOPS = 44
PILOT_IMAGES = 16


def evaluate(run: Path, *arguments: str) -> dict[str, Any]:
    """What the command says, and the seconds of the whole command."""
    out, began = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(out):
        code = alphabar(["evaluate", str(run), *arguments, "--json"])
    assert code == 0, f"evaluate ended with {code}"
    return {**json.loads(out.getvalue()), "wall": time.perf_counter() - began}


def fresh(run: Path) -> Path:
    """The run without what was measured on it before."""
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    return run


def estimates(run: Path) -> tuple[dict[str, Any], list[str]]:
    """The bound of all hops, and three estimates with other seeds."""
    full = evaluate(run, "--metrics", "bpd")
    n, T = full["card"]["bound"]["n"], ab.load(run).schedule.T
    lines = [
        f"All {T} steps, {n} held-out digits: {full['bits_per_dim']:.4f} ± {full['bits_per_dim_standard_error']:.4f} "
        f"bits/dim, {n * T:,} network calls.",
        "",
        "| seed | bits/dim | error from drawing hops | calls, pilot included | of all | difference / error |",
        "|---|---|---|---|---|---|",
    ]
    found = []
    for seed in range(1, 6):
        some = evaluate(run, "--metrics", "bpd", "--hops", str(HOPS), "--seed", str(seed))
        calls = n * (HOPS + 1) + PILOT_IMAGES * PILOT_CALLS
        error = some["bits_per_dim_draw_error"]
        score = (some["bits_per_dim"] - full["bits_per_dim"]) / error
        found.append({"seed": seed, "bits_per_dim": some["bits_per_dim"], "draw_error": error, "calls": calls})
        lines.append(
            f"| {seed} | {some['bits_per_dim']:.4f} | {error:.4f} | {calls:,} | 1/{n * T / calls:.1f} | {score:+.2f} |"
        )
    return {"full": full["bits_per_dim"], "estimates": found}, lines


def overfitted(folder: Path) -> Path:
    """A run on 20 digits that learns them by heart."""
    pixels = np.array(ab.open_source("digits").pixels)[np.random.default_rng(0).permutation(1797)[:20], 0]
    np.savez(folder / "twenty.npz", images=pixels)
    code = alphabar(["train", str(folder / "twenty.npz"), "--out", str(folder / "twenty"), "--steps", "1500"])
    assert code == 0
    return folder / "twenty"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/digits"))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    run = folder / "run"
    shutil.copytree(arguments.run, run)
    fresh(run)
    hops, lines = estimates(run)
    facts: dict[str, Any] = {"hops": hops}

    lines += ["", "| samples | look copied | in pixels | in features |", "|---|---|---|---|"]
    timed = []
    for name, path in (("healthy digits model", run), ("overfitted to 20 digits", overfitted(folder))):
        found = evaluate(path, "--metrics", "copies,fid,kid,is,pr", "-n", "1000", "--features", "digits")
        facts[name] = {key: found[key] for key in ("copied_share", "copied_in_pixels", "copied_in_features", "fid")}
        timed.append((f"{name}, 1,000 samples, every score", found))
        lines.append(
            f"| {name} | {100 * found['copied_share']:.1f} % | {found['copied_in_pixels']} | "
            f"{found['copied_in_features']} |"
        )
    timed.append(("bound of 179 digits, all steps", evaluate(run, "--metrics", "bpd", "--seed", "11")))
    timed.append(
        (
            "500 samples by 50 steps of DDIM",
            evaluate(run, "--metrics", "kid", "-n", "500", "--sampler", "ddim", "--steps", "50"),
        )
    )
    lines += ["", "| work | announced | taken | ratio |", "|---|---|---|---|"]
    for name, found in timed:
        said, took = found["card"]["seconds"]["estimated"], found["card"]["seconds"]["actual"]
        lines.append(f"| {name} | {said:.1f} s | {took:.1f} s | {said / took:.2f} |")
    again = evaluate(run, "--metrics", "copies,fid,kid,is,pr", "-n", "1000", "--features", "digits")
    facts["seconds"] = [found["card"]["seconds"] for _, found in timed]
    facts["second evaluation"] = again["wall"]
    lines += ["", f"The same scores once more, everything kept: {again['wall']:.2f} s for the whole command's work."]
    write("evaluation", "Evaluation on the digits", facts, lines)


if __name__ == "__main__":
    main()
