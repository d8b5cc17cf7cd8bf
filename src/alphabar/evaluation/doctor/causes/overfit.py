"""Too few images, or a model that knows them by heart: held-out against training error, and copies among samples."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding

__all__ = ["overfit"]

# copies are rarer than 5 % in a healthy model (evaluation/copies.py counts them so)
COPIED = 0.2
SOME_COPIED = 0.05
# the same t and ε for both sets: of 8 bands one exceeds 3 standard errors by chance once in 50 runs, two never
SURE = 3.0
GAP, LARGE_GAP = 0.25, 1.0
FEW = 100


def overfit(evidence: Evidence) -> Finding | None:
    """Compare the errors of the averaged weights on both sets band by band, and look for copies."""
    gaps = [
        (unseen.error.value / seen.error.value - 1, unseen)
        for seen, unseen in zip(evidence.ema_train, evidence.ema_held_out, strict=bool(evidence.ema_held_out))
        if seen.error.value > 0 and unseen.error.beyond(seen.error) > SURE
    ]
    wide = [gap for gap, _ in gaps if gap > GAP]
    copies = evidence.fresh.copies if evidence.fresh is not None else None
    share = float(copies.copied.double().mean()) if copies is not None else 0.0
    score = 0.0
    if len(wide) >= 2:
        score = 0.88 if max(wide) > LARGE_GAP else 0.7
    if share > SOME_COPIED:
        score = max(score, 0.94 if share > COPIED else 0.6)
    if not score or evidence.data is None:
        return None
    numbers = []
    if share > SOME_COPIED and copies is not None:
        numbers.append(
            f"{int(copies.copied.sum())} of {len(copies.copied)} fresh samples look copied (nearest training image "
            f"{float(copies.distance.median()):.1f} grey levels away; usual: {float(copies.usual.median()):.1f})"
        )
    if wide:
        gap, band = max(gaps, key=lambda pair: pair[0])
        numbers.append(
            f"the error on unseen images exceeds that on training images in {len(wide)} of {len(evidence.ema_train)} "
            f"bands of noise, by {100 * gap:.0f} % for t = {band.first} ... {band.last}"
        )
    n = len(evidence.data.train)
    passes = evidence.history.step * (evidence.setting("run", "batch") or 0) / n
    numbers.append(f"{n:,} training images, each seen {passes:,.0f} times")
    return Finding(
        "overfit",
        "too few images: the model repeats its training images" if n < FEW else "the model has overfitted",
        score,
        tuple(numbers),
        f"more images; or fewer steps, dropout and mirrored images: {evidence.again} --steps "
        f"{max(1, evidence.history.step // 4)} net.dropout_rate=0.2 data.flip=true",
    )
