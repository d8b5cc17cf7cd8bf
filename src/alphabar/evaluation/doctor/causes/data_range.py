"""Training images without contrast, in the wrong range, or inverted: the model learns them faithfully."""

from __future__ import annotations

import torch

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.pixel_facts import PixelFacts

__all__ = ["data_range"]

# black and white, and what becomes of -1 and 1 when they are cast to bytes
WRAPPED = {0, 1, 254, 255}
NARROW = 16  # of 256 levels: a contrast of 6 % looks like an empty picture
FAINT = 4.0
SAME_SHAPE = 0.8


def data_range(evidence: Evidence) -> Finding | None:
    """Look at the pixel values of the training images, and compare them with ``--data``."""
    facts = evidence.data.facts if evidence.data is not None else None
    if facts is None:
        return None
    complaint = _alone(facts)
    if complaint is None and evidence.reference is not None:
        complaint = _against(facts, evidence.reference, evidence.reference_name)
    if complaint is None:
        return None
    score, says, numbers = complaint
    means = ", ".join(f"{m.value:.1f}" for m in facts.mean)
    deviations = ", ".join(f"{d.value:.1f}" for d in facts.deviation)
    return Finding(
        "data-range",
        says,
        score,
        (numbers, f"{facts.n:,} training images: mean {means}, deviation {deviations} of 255"),
        "write the images again as uint8 in 0 ... 255 (floats in 0 ... 1 times 255, floats in -1 ... 1 by "
        f"(x + 1) * 127.5), then {evidence.again}",
    )


def _alone(facts: PixelFacts) -> tuple[float, str, str] | None:
    values = set(facts.values)
    listed = ", ".join(str(v) for v in facts.values[:4])
    if max(values) <= 1:
        return 0.99, "the training images are black: their range is 0 to 1, not 0 to 255", f"pixel values: {listed}"
    if values <= WRAPPED and values & {1, 254}:
        return 0.98, "the training images were cast from -1 ... 1 to bytes", f"the only pixel values are {listed}"
    if facts.constant > 0.5:
        share = f"{100 * facts.constant:.0f} % of the images have no contrast at all"
        return 0.95, "most training images are one flat colour", share
    if facts.high - facts.low < NARROW or max(d.value for d in facts.deviation) < FAINT:
        span = f"99 % of the pixels lie between {facts.low} and {facts.high} of 0 ... 255"
        return 0.95, "the training images use a sliver of the range: they are nearly constant", span
    return None


def _against(facts: PixelFacts, reference: PixelFacts, name: str) -> tuple[float, str, str] | None:
    """Is the histogram of one the mirror image of the other?"""
    if facts.shape[0] != reference.shape[0]:
        return None
    ours, theirs = facts.histogram.mean(0).cumsum(0), reference.histogram.mean(0).cumsum(0)
    mirrored = reference.histogram.mean(0).flip(0).cumsum(0)
    straight, turned = float((ours - theirs).abs().sum()), float((ours - mirrored).abs().sum())
    means = [float(torch.tensor([m.value for m in f.mean]).mean()) for f in (facts, reference)]
    brightness = f"mean {means[0]:.0f}, that of {name} {means[1]:.0f}"
    distances = f"histograms are {straight:.0f} levels apart as they are and {turned:.0f} after inverting one"
    if straight > NARROW and turned < (1 - SAME_SHAPE) * straight:
        return (
            0.96,
            "the training images are inverted",
            f"{brightness}; {distances}",
        )
    if straight > 2 * NARROW:
        return 0.8, f"the training images are not in the range of {name}", distances
    return None
