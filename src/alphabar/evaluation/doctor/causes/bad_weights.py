"""Weights that are damaged, not finite, or zero where no weights stay: no samples, noise, or one flat colour."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.weight_facts import WeightFacts

__all__ = ["bad_weights"]

# Adam moves every weight by about its rate at each step: after a hundred steps the output, which starts at 1e-5 of the
# usual range, is far above this unless no gradient reaches it
DEAD_OUTPUT = 1e-4


def bad_weights(evidence: Evidence) -> Finding | None:
    """Look at the averaged weights, and at the raw ones."""
    model = evidence.model
    if evidence.damaged:
        advice = f"restore a checkpoint from a copy, or train again: {evidence.again}"
        return Finding("bad-weights", "no checkpoint is intact", 1.0, (evidence.damaged,), advice)
    if model is None:
        return None
    trained = evidence.history.step or model.step or 0
    found: list[tuple[float, str]] = []
    for name, facts in (("EMA", model.ema), ("raw", model.raw)):
        if facts is not None:
            found += [(score, f"{name} weights: {text}") for score, text in _complaints(facts, trained)]
    if not found:
        return None
    return Finding(
        "bad-weights",
        "the weights are dead or not finite",
        max(score for score, _ in found),
        tuple(text for _, text in found),
        "sample an older checkpoint (alphabar sample RUN/step-...), or train again with a lower rate: "
        f"{evidence.again} optim.lr={_lower(evidence):g}",
    )


def _lower(evidence: Evidence) -> float:
    rate = evidence.setting("optim", "lr")
    return float(rate) / 4 if isinstance(rate, int | float) else 1e-4


def _complaints(facts: WeightFacts, trained: int) -> list[tuple[float, str]]:
    found = []
    if facts.not_finite:
        found.append((1.0, f"NaN or infinity in {len(facts.not_finite)} of {facts.tensors}: {facts.not_finite[0]}"))
    if facts.dead:
        found.append((0.99, f"{len(facts.dead)} matrices are zero throughout: {', '.join(facts.dead[:3])}"))
    elif facts.output is not None and facts.output < DEAD_OUTPUT and trained >= 100:
        found.append((0.95, f"the last convolution is all but zero ({facts.output:.1e}) after {trained:,} steps"))
    return found
