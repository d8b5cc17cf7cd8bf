"""Samples that are tinted, too bright or too dark, too flat or too contrasty, beyond what chance explains."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.pixel_facts import Measured, PixelFacts

__all__ = ["SURE", "VISIBLE", "colour_drift", "drifts"]

SURE = 3.0
VISIBLE = 2.0  # levels of 255: what a side by side comparison shows on flat colour
CONTRAST = 0.1
# a tint (channels that are off by different amounts) of this size is the complaint itself; brightness or contrast that
# is off is a symptom of nearly any other cause
TINT = 10.0
NAMES = {1: ("brightness",), 3: ("red", "green", "blue")}


def drifts(samples: PixelFacts, real: PixelFacts) -> list[tuple[str, float, float]]:
    """(channel, levels by which the mean is off, standard errors of that) of every channel."""
    names = NAMES.get(real.shape[0], tuple(f"channel {i}" for i in range(real.shape[0])))
    return [
        (name, ours.value - theirs.value, ours.beyond(theirs))
        for name, ours, theirs in zip(names, samples.mean, real.mean, strict=True)
    ]


def colour_drift(evidence: Evidence) -> Finding | None:
    """Compare mean and deviation of each channel of the fresh samples with those of the training images."""
    fresh, real = evidence.fresh, evidence.real
    if fresh is None or real is None or fresh.facts.shape[0] != real.shape[0]:
        return None
    off = [(n, gap, z) for n, gap, z in drifts(fresh.facts, real) if abs(gap) > VISIBLE and abs(z) > SURE]
    flat = [
        (ours, theirs)
        for ours, theirs in zip(fresh.facts.deviation, real.deviation, strict=True)
        if theirs.value > 0 and abs(ours.beyond(theirs)) > SURE and abs(ours.value / theirs.value - 1) > CONTRAST
    ]
    if not off and not flat:
        return None
    numbers = [f"{n}: mean off by {gap:+.1f} of 255, {abs(z):.0f} standard errors" for n, gap, z in off]
    numbers += [_contrast(ours, theirs) for ours, theirs in flat[:1]]
    worst = max((abs(gap) for _, gap, _ in off), default=0.0)
    gaps = [gap for _, gap, _ in drifts(fresh.facts, real)]
    tinted = bool(off) and max(gaps) - min(gaps) > VISIBLE
    most = 0.86 if max(gaps) - min(gaps) > TINT else 0.69
    return Finding(
        "colour-drift",
        f"samples are {'tinted' if tinted else 'of another brightness or contrast'} (colour drift)",
        min(most, 0.5 + worst / 50 + 0.05 * len(flat) / len(real.deviation)),
        (f"{fresh.facts.n} fresh samples against {real.n:,} images", *numbers),
        f"{_remedy(evidence)} (docs/colour-drift.md)",
    )


def _remedy(evidence: Evidence) -> str:
    """Colours are decided where t is large: x̂_0 multiplies an error of ε̂ by √(1/ᾱ − 1), one of v̂ by less."""
    predicts = (evidence.model.description.get("prediction") or {}).get("kind") if evidence.model is not None else None
    if predicts == "v":
        return f"train longer, on L_simple, with a rate that decays: {evidence.again} optim.rate=cosine"
    return f"let the network predict v, which does not magnify errors where t is large: {evidence.again} " + (
        "denoiser.prediction=v objective.kind=simple"
    )


def _contrast(ours: Measured, theirs: Measured) -> str:
    gap = ours.value / theirs.value - 1
    return f"deviation of the pixels {100 * gap:+.0f} %, {abs(ours.beyond(theirs)):.0f} standard errors"
