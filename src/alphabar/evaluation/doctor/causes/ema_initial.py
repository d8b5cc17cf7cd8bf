"""An average of the weights that still consists of initial ones: samples are noise while the raw weights are fine."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding

__all__ = ["ema_initial"]

# a tenth of random weights in every layer is far from any weights that were trained
MUCH = 0.1
WORSE = 1.2


def ema_initial(evidence: Evidence) -> Finding | None:
    """The share by the closed form, and the error of the averaged weights against that of the raw ones."""
    share, worse = evidence.initial_share, _ema_over_raw(evidence)
    if share is None or share < MUCH:
        return None
    numbers = [
        f"{100 * share:.0f} % of the averaged weights are still initial ones after {evidence.updates:,} updates "
        f"(closed form from ema.halflife_images = {evidence.setting('ema', 'halflife_images'):,}, "
        f"ema.warmup = {str(evidence.setting('ema', 'warmup')).lower()}, batch {evidence.setting('run', 'batch')})"
    ]
    if worse is not None:
        numbers.append(f"their error is {worse:.2g} times that of the raw weights on the same images and noise")
    harmless = worse is not None and worse < WORSE
    return Finding(
        "ema-initial",
        "the averaged weights are still mostly what they were initialised with"
        if share > 0.5
        else "the averaged weights still hold much of what they were initialised with",
        0.4 if harmless else min(0.98, 0.85 + share / 5),
        tuple(numbers),
        "sample the raw weights meanwhile: alphabar sample RUN --weights raw; and train with a warm-up of the average: "
        f"{evidence.again} ema.warmup=true",
    )


def _ema_over_raw(evidence: Evidence) -> float | None:
    ema, raw = evidence.ema_held_out or evidence.ema_train, evidence.raw_held_out
    if not ema or not raw:
        return None
    below = sum(band.error.value for band in raw)
    return sum(band.error.value for band in ema) / below if below > 0 else None
