"""A run that stopped, or stands, where the loss still falls."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.history import slope

__all__ = ["under_trained"]

# much of the loss cannot be learned away, and runs whose samples are good still gain 5 to 9 % by a doubling
WORTHWHILE = 0.12
LATE = 0.25  # with a rate that decays the last part is flat in any run, long or short


def under_trained(evidence: Evidence) -> Finding | None:
    """Fit a power of the step to the last part of the held-out curve (the training loss where nothing is held out)."""
    history = evidence.history
    late = [p for p in history.held_out if p.step >= LATE * history.step]
    name, points = "held-out", late
    if len(late) < 3:
        windows = history.windows()
        name, points = "training", [w for w in windows if w.step >= LATE * history.step]
    power = slope(points)
    if power is None:
        return None
    gain = 1 - 2**power
    if gain < WORTHWHILE:
        return None
    steps = evidence.history.step
    images = len(evidence.data.train) if evidence.data is not None else 0
    batch = evidence.setting("run", "batch") or 0
    numbers = [
        f"the {name} loss still falls: {points[0].loss:.4f} at step {points[0].step:,}, {points[-1].loss:.4f} at "
        f"{points[-1].step:,}; twice the steps promise another {100 * gain:.0f} %"
    ]
    if images and batch:
        numbers.append(f"{steps:,} steps of {batch} are {steps * batch / images:.1f} passes over {images:,} images")
    wanted = _steps_needed(steps, power)
    seconds = sorted(history.seconds)[len(history.seconds) // 2] if history.seconds else 0.0
    took = f" (about {_duration((wanted - steps) * seconds)} more at {seconds:.2g} s a step)" if seconds else ""
    planned = evidence.setting("run", "steps")
    if isinstance(planned, int) and planned > steps:
        advice = f"let it go on: {planned:,} steps are planned; the command that started it continues it"
    else:
        advice = f"{wanted:,} steps promise a quarter less loss{took}: {evidence.onward} --steps {wanted}"
    return Finding(
        "under-trained",
        "the model is under-trained: its loss still falls",
        min(0.9, 0.7 + 1.5 * (gain - WORTHWHILE)),
        tuple(numbers),
        advice,
    )


def _steps_needed(steps: int, power: float) -> int:
    """Where the fitted power of the step promises a quarter less loss, rounded up to two digits.

    Losses bend towards a floor that a power does not know, so the count is held to ten times the present one.
    """
    wanted = steps * min(10.0, 0.75 ** (1 / power))
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
