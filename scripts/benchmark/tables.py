"""Figures as tables of Markdown, and as plain values for JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import scaling
from benchmark.race import OURS, Timed, median_ratio
from benchmark.spec import Spec

__all__ = [
    "NAMES",
    "beside_peers",
    "beside_plain",
    "laws",
    "memory",
    "not_measured",
    "operators",
    "plain",
    "rate_of",
    "shares",
    "versions",
]

NAMES = {"forward": "forward", "step": "training step"}


def versions(python: Path) -> dict[str, str]:
    """The packages of an environment and their versions."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    listed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(sorted(json.loads(listed).items()))


def plain(one: Timed) -> dict[str, Any]:
    """A contestant and its seconds per image."""
    spec = one.spec
    return {
        "contestant": spec.contestant,
        "settings": list(spec.settings),
        "model": spec.model,
        "batch": spec.batch,
        "parameters": one.parameters,
        "seconds_per_image": one.rounds,
    }


def _ratio(one: Timed, ours: Timed, action: str) -> str:
    return f"{median_ratio(one, ours, action):.2f}"


def beside_peers(timed: Sequence[Timed], ours: Spec) -> list[str]:
    """Every contestant, then ours against whichever setting of each peer was the fastest here."""
    (us,) = (one for one in timed if one.spec == ours)
    rounds = len(us.rounds["step"])
    lines = [
        "## The paper's CIFAR-10 network",
        "",
        f"Batch {ours.batch}, {ours.threads} threads each, in turns, medians of {rounds} rounds. A ratio is the time "
        "of the row over ours, the median of the ratios within a round: above 1, ours is faster.",
        "",
        "| contestant | parameters | forward, ms per image | ratio | training step, ms per image | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for one in timed:
        cells = [f"{1000 * one.median(action):.1f} | {_ratio(one, us, action)}" for action in NAMES]
        lines.append(f"| {one.spec.label} | {one.parameters / 1e6:.2f} M | {' | '.join(cells)} |")
    peers: dict[str, list[Timed]] = {}
    for one in timed:
        if one.spec.contestant not in OURS:
            peers.setdefault(one.spec.contestant, []).append(one)
    if peers:
        lines += ["", "| peer in its fastest setting | forward, ratio | training step, ratio |", "|---|---|---|"]
    for peer, settings in peers.items():
        cells = []
        for action in NAMES:
            best = min(settings, key=lambda one: median_ratio(one, us, action))
            cells.append(f"{_ratio(best, us, action)} ({', '.join(best.spec.settings) or 'as it ships'})")
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return [*lines, ""]


def beside_plain(pairs: Sequence[Sequence[Timed]]) -> list[str]:
    """Our networks, and the same networks in a plain loop."""
    lines = [
        "## Our networks beside a plain loop",
        "",
        "The same network in float32, contiguous, with torch's own Adam.",
        "",
        "| network | batch | what | ours, ms per image | plain loop | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for us, them in pairs:
        for action, name in NAMES.items():
            lines.append(
                f"| {us.spec.model} | {us.spec.batch} | {name} | {1000 * us.median(action):.3g} | "
                f"{1000 * them.median(action):.3g} | {_ratio(them, us, action)} |"
            )
    return [*lines, ""]


def rate_of(spec: Spec, rates: Mapping[str, float]) -> float:
    """The machine's rate in the precision of a contestant."""
    return rates["bf16" if "bf16" in spec.settings else "fp32"]


def shares(timed: Sequence[Timed], flops: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]) -> list[str]:
    """How much of the machine's fastest convolution each of ours reaches."""
    best = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items())
    lines = [
        "### Share of the machine",
        "",
        f"The fastest 3×3 convolution, channels last: {best}.",
        "",
        "| contestant | network | what | GFLOP per image | GFLOP/s | share |",
        "|---|---|---|---|---|---|",
    ]
    for one in timed:
        if one.spec.contestant not in OURS:
            continue
        rate = rate_of(one.spec, rates)
        for action, name in NAMES.items():
            count = flops[one.spec.model][action]
            reached = count / one.median(action)
            lines.append(
                f"| {one.spec.label} | {one.spec.model} | {name} | {count / 1e9:.3g} | {reached / 1e9:.3g} | "
                f"{100 * reached / rate:.0f} % |"
            )
    return [*lines, ""]


def _both_forms(what: str, shape: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each shape; the chosen form in bold."""
    lines = [
        what,
        "",
        "| images, channels, side | forward, torch's | ours | with backward, torch's | ours |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for action in ("forward", "step"):
            for form in ("direct", "ours"):
                text = f"{row[action][form]:.3g}" if form in row[action] else "–"
                cells.append(f"**{text}**" if row[action]["chosen"] == form else text)
        n, first, second, side = row["shape"]
        lines.append(f"| {n}, {shape.format(first, second)}, {side}×{side} | {' | '.join(cells)} |")
    return [*lines, ""]


def operators(convolutions: Sequence[dict[str, Any]], norms: Sequence[dict[str, Any]]) -> list[str]:
    """Both forms of what has two."""
    return [
        "## Operators",
        "",
        "In float32, channels innermost: median milliseconds of torch's operators and of ours, in turns. The bold form "
        "is chosen where there is a C compiler.",
        "",
        *_both_forms("3×3 convolutions, direct and by Winograd's F(4×4, 3×3):", "{} → {}", convolutions),
        *_both_forms("SiLU of a GroupNorm of x + shift:", "{} in {} groups", norms),
    ]


def memory(per_image: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What one more image in the batch takes."""
    lines = [
        "## Memory",
        "",
        "Peak memory of a process for one more image of the batch, the paper's CIFAR-10 network.",
        "",
        "| contestant | forward without gradients, MB | sampling, MB | training step, MB |",
        "|---|---|---|---|",
    ]
    for label, taken in per_image.items():
        cells = [f"{taken[action] / 1e6:.1f}" if action in taken else "–" for action in ("forward", "sample", "step")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, ""]


def laws(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The exponents, and the picture of them."""
    return [
        "## Laws of growth",
        "",
        "Exponents in a log-log plot: a value of 1 doubles with the size. Work is FLOPs as torch counts them. Verdicts "
        f"are of the three largest sizes, with {scaling.TOLERANCE} allowed for noise; memory is what a process takes "
        "beyond the network: activations, gradients, the optimiser's moments.",
        "",
        *scaling.rows(results),
        "",
        "![time, memory and work against batch, image size, channels and chain length](bench_scaling.png)",
        "",
    ]


def not_measured(notes: Sequence[str]) -> list[str]:
    """What failed, and why."""
    return ["Not measured:", "", *(f"- {note}" for note in dict.fromkeys(notes)), ""] if notes else []
