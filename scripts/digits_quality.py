"""Are the demo's digits good? ``make campaign`` runs it; results go to ``docs/results/digits_quality.*``.

    python scripts/digits_quality.py [--minutes 2.85] [--seeds 0 1 2] [--runs FOLDER]

For each seed: train as ``make demo`` does, sample 1,000 images with the default sampler, and ask a classifier trained
on the real digits (SVM with RBF kernel). The promise: mean top probability ≥ 0.93, every class between 5 % and 16 %.
Beside it: the same for all 1000 steps of Algorithm 2 and for DDIM, and how near samples lie to training images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import alphabar as ab
from alphabar.cli.main import main as alphabar
from alphabar.cli.sample import prepare
from alphabar.data.batch import split
from alphabar.evaluation.copies import nearest

SAMPLES = 1000


def classifier() -> SVC:
    """An SVM with RBF kernel and probabilities, trained on all real digits."""
    digits = load_digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return SVC(C=10, gamma=0.001, probability=True, random_state=0).fit(digits.data, digits.target)


def judge(svm: SVC, images: torch.Tensor) -> dict[str, float]:
    """Mean top probability, and the rarest and commonest class among images uint8 [N, 1, 8, 8]."""
    probabilities = svm.predict_proba(images.reshape(len(images), -1).numpy() / 255 * 16)
    shares = np.bincount(probabilities.argmax(1), minlength=10) / len(images)
    top = float(probabilities.max(1).mean())
    return {"top": top, "rarest": float(shares.min()), "commonest": float(shares.max())}


def train(seed: int, minutes: float, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train as the demo does: the run, and what it took. One that ``folder`` has is not trained again."""
    path, facts = folder / f"digits-{seed}", folder / f"digits-{seed}.json"
    if not facts.exists():
        began = time.perf_counter()
        code = alphabar(["train", "digits", "--out", str(path), "--minutes", str(minutes), "--seed", str(seed)])
        assert code == 0, f"training ended with {code}"
        whole = time.perf_counter() - began
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        in_steps = [line["seconds"] for line in lines if "seconds" in line]
        found = {"steps": len(in_steps), "training_seconds": whole, "seconds_in_steps": sum(in_steps)}
        facts.write_text(json.dumps(found))
    return path, json.loads(facts.read_text())


def judged(svm: SVC, path: Path, seed: int) -> dict[str, Any]:
    """Sample three ways, and judge."""
    usual, few, denoiser = prepare(ab.load(path), None, None)
    schedule = denoiser.schedule
    ways = {
        f"{ab.SAMPLERS.name_of(usual)}, {len(few)} steps (default)": (usual, few),
        "ancestral, all 1000 steps": (ab.samplers.Ancestral(), ab.Chain.full(schedule)),
        "DDIM, 50 steps": (ab.samplers.DDIM(), ab.Chain.spaced(schedule, 50)),
    }
    result: dict[str, Any] = {}
    seen, held_out = split(ab.open_source("digits"), seed, 179)
    pixels = torch.from_numpy(np.array(seen.pixels))
    for name, (sampler, chain) in ways.items():
        images = ab.generate(denoiser, sampler, chain, seeds=range(SAMPLES), batch=125)
        result[name] = {**judge(svm, images), "nearest_rmse": float(nearest(images, pixels).rmse.median())}
    unseen = torch.from_numpy(np.array(held_out.pixels))
    distance = float(nearest(unseen, pixels).rmse.median())
    result["held-out real digits"] = {**judge(svm, unseen), "nearest_rmse": distance}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.85)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="where the trainings stay; finished ones there are not repeated")
    arguments = parser.parse_args()
    folder = arguments.runs or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    # first every training, which needs an idle machine, then what does not
    trained = {seed: train(seed, arguments.minutes, folder) for seed in arguments.seeds}
    print("trained all", flush=True)
    svm = classifier()
    runs = [{"seed": seed, **facts, **judged(svm, path, seed)} for seed, (path, facts) in trained.items()]
    lines = [
        f"{SAMPLES} samples of each kind from EMA weights; SVM (RBF) trained on all 1,797 real digits.",
        "Promise for the default: mean top probability ≥ 0.93, each class 5 % to 16 %. The last row of a seed is the",
        "179 digits that the network never saw (the SVM did). Distance: median over images of the root mean square to",
        "the nearest training image, in grey levels of 255; samples much nearer than held-out digits would be copies.",
        "",
        "| seed | images | mean top probability | rarest / commonest class | distance |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        for name, facts in run.items():
            if isinstance(facts, dict):
                lines.append(
                    f"| {run['seed']} | {name} | {facts['top']:.4f} | {100 * facts['rarest']:.1f} % / "
                    f"{100 * facts['commonest']:.1f} % | {facts['nearest_rmse']:.1f} |"
                )
    seconds = [f"{run['training_seconds']:.0f} s" for run in runs]
    in_steps = [f"{run['steps']:,} in {run['seconds_in_steps']:.0f} s" for run in runs]
    lines += [
        "",
        f"`alphabar train digits --minutes {arguments.minutes}` took {', '.join(seconds)}, all included; steps: "
        f"{', '.join(in_steps)}.",
    ]
    write("digits_quality", "Quality of the digits", {"runs": runs}, lines)


if __name__ == "__main__":
    main()
