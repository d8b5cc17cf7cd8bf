"""A run that stopped, or stands, where the loss still falls or its samples are still noise."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.history import Point, slope

__all__ = ["under_trained"]

# much of the loss cannot be learned away, and runs whose samples are good still gain 5 to 9 % by a doubling
WORTHWHILE = 0.12
# grey levels, and a share of the data's own roughness; samples of good but small networks had 4 levels more at most
NOISY = 8.0
BESIDE = 0.5
SURE = 3.0
LATE = 0.25  # with a rate that decays the last part is flat in any run, long or short


def under_trained(evidence: Evidence) -> Finding | None:
    """Fit a power of the step to the late losses, and look for noise that the network does not take away."""
    found = [*_falling(evidence), *_noisy(evidence)]
    if not found:
        return None
    steps, batch = evidence.history.step, evidence.setting("run", "batch") or 0
    images = len(evidence.data.train) if evidence.data is not None else 0
    numbers = [number for _, _, number in found]
    if images and batch and steps:
        numbers.append(f"{steps:,} steps of {batch} are {steps * batch / images:.1f} passes over {images:,} images")
    return Finding(
        "under-trained",
        f"the model is under-trained: {' and '.join(why for _, why, _ in found)}",
        max(score for score, _, _ in found),
        tuple(numbers),
        _advice(evidence),
    )


def _late(evidence: Evidence) -> tuple[str, list[Point], float | None]:
    """The last part of the held-out curve (the training loss where nothing is held out), and its power of the step."""
    history = evidence.history
    name, points = "held-out", [p for p in history.held_out if p.step >= LATE * history.step]
    if len(points) < 3:
        name, points = "training", [w for w in history.windows() if w.step >= LATE * history.step]
    return name, points, slope(points)


def _falling(evidence: Evidence) -> list[tuple[float, str, str]]:
    name, points, power = _late(evidence)
    gain = 0.0 if power is None else 1 - 2**power
    if gain < WORTHWHILE:
        return []
    number = (
        f"the {name} loss still falls: {points[0].loss:.4f} at step {points[0].step:,}, {points[-1].loss:.4f} at "
        f"{points[-1].step:,}; twice the steps promise another {100 * gain:.0f} %"
    )
    return [(min(0.9, 0.7 + 1.5 * (gain - WORTHWHILE)), "its loss still falls", number)]


def _noisy(evidence: Evidence) -> list[tuple[float, str, str]]:
    fresh, real = evidence.fresh, evidence.real
    if fresh is None or real is None or fresh.facts.shape != real.shape:
        return []
    excess = fresh.facts.roughness.value - real.roughness.value
    if fresh.facts.roughness.beyond(real.roughness) < SURE or excess < max(NOISY**2, BESIDE * real.roughness.value):
        return []
    number = f"{fresh.facts.n} fresh samples hold {excess**0.5:.0f} grey levels of noise more than the data"
    return [(0.72, "its samples still hold noise", number)]


def _advice(evidence: Evidence) -> str:
    history, planned = evidence.history, evidence.setting("run", "steps")
    steps, power = history.step, _late(evidence)[2]
    if isinstance(planned, int) and planned > steps:
        return f"let it go on: {planned:,} steps are planned; the command that started it continues it"
    if not steps:
        return "train it longer"
    wanted = _steps_needed(steps, power)
    seconds = sorted(history.seconds)[len(history.seconds) // 2] if history.seconds else 0.0
    took = f" (about {_duration((wanted - steps) * seconds)} more at {seconds:.2g} s a step)" if seconds else ""
    promise = "promise a quarter less loss" if power is not None and power < 0 else "are worth a try"
    return f"{wanted:,} steps {promise}{took}: {evidence.onward} --steps {wanted}"


def _steps_needed(steps: int, power: float | None) -> int:
    """Where the fitted power of the step promises a quarter less loss, rounded up to two digits.

    Losses bend towards a floor that a power does not know, so the count is held to ten times the present one.
    """
    wanted = steps * (min(10.0, 0.75 ** (1 / power)) if power is not None and power < 0 else 10.0)
    digits = 10 ** max(0, len(str(int(wanted))) - 2)
    return int(-(-wanted // digits) * digits)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
