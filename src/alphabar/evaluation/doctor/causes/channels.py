"""The wrong number of channels: grey images stored as colour, or colour read as grey."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding

__all__ = ["channels"]

# of grey photographs stored as JPEG a few have tinted pixels; of colour photographs a few are grey
NEARLY_ALL = 0.98
# any two images of a set are equally unlike, so the ratio is about 1; channels of one picture show one pattern
STACKED = 0.5


def channels(evidence: Evidence) -> Finding | None:
    """Compare the channels of the training images with each other, with ``--data`` and with the model."""
    data, reference = evidence.data, evidence.reference
    if data is not None and data.facts.grey >= NEARLY_ALL:
        share = f"in {100 * data.facts.grey:.0f} % of {data.facts.n:,} training images red, green and blue are equal"
        return Finding(
            "channels",
            "the images are grey but stored as colour: the model has to learn that three channels agree",
            0.9,
            (share, *_tint(evidence)),
            f"store them with one channel (PNG mode L, or an array [N, H, W]), then {evidence.again}",
        )
    if data is not None and data.stacked is not None and data.stacked < STACKED:
        ratio = f"patterns within triples of successive images differ {data.stacked:.2f} times as much as between them"
        return Finding(
            "channels",
            "colour images were read as grey: red, green and blue of each picture are three images",
            0.92,
            (ratio, f"{len(data.train) + len(data.held_out):,} images of shape {data.facts.shape}"),
            f"store them as [N, H, W, 3], then {evidence.again}",
        )
    ours = evidence.model.shape[0] if evidence.model is not None else None
    if ours is not None and reference is not None and reference.shape[0] != ours and reference.grey < NEARLY_ALL:
        return Finding(
            "channels",
            f"the model makes {ours} channel(s), the images of {evidence.reference_name} have {reference.shape[0]}",
            0.95,
            (f"model {evidence.model.shape if evidence.model else ''}, images {reference.shape}",),
            f"train on images with {reference.shape[0]} channels: {evidence.again}",
        )
    return None


def _tint(evidence: Evidence) -> tuple[str, ...]:
    fresh = evidence.fresh
    if fresh is None or fresh.facts.grey >= NEARLY_ALL:
        return ()
    return (f"only {100 * fresh.facts.grey:.0f} % of {fresh.facts.n} samples are grey",)
