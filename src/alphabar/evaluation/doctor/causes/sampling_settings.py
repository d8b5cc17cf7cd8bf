"""Samples made unlike the model was trained: another schedule, times, variance or clipping, or other weights."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence, Model
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.pixel_facts import apart
from alphabar.evaluation.doctor.sample_folders import SampleFolder

__all__ = ["sampling_settings"]

SIGNAL_LEFT = 1e-3
FEW = 20  # for a rule of order 1; one of order 2 needs half as many
# levels of 255 by which samples may be further from the data than fresh ones before anyone sees it
VISIBLE = 4.0
MISTAKE = 0.55


def sampling_settings(evidence: Evidence) -> Finding | None:
    """The folder whose settings differ and whose images differ most from what the right settings give."""
    model = evidence.model
    if model is None:
        return None
    found = []
    for folder in evidence.folders:
        differences = _differences(folder, model)
        if differences:
            score, numbers = _harm(folder, evidence)
            # others may be meant; another process is a mistake even where little can be seen of it
            score = max(score, MISTAKE) if _other_process(folder, model) else score
            found.append((score, folder, differences, numbers))
    if not found:
        return None
    score, folder, differences, numbers = max(found, key=lambda item: item[0])
    return Finding(
        "sampling-settings",
        f"samples/{folder.name} was made unlike the model was trained",
        score,
        (*differences, *numbers),
        f"alphabar sample {evidence.run} without settings: the checkpoint knows them",
    )


def _differences(folder: SampleFolder, model: Model) -> list[str]:
    """What of the manifest does not fit the model, in words."""
    manifest, trained = folder.manifest, model.description
    found = [
        f"{key}: sampled with {_short(manifest[key])}, trained with {_short(trained.get(key))}"
        for key in _other_process(folder, model)
    ]
    if "clip" in manifest and manifest["clip"] != trained.get("clip"):
        found.append(f"clipping: sampled with {_none(manifest['clip'])}, trained with {_none(trained.get('clip'))}")
    if manifest.get("weights") == "raw":
        found.append("raw weights instead of the averaged ones")
    return [*found, *_variance(folder, model), *_times(folder, model)]


def _other_process(folder: SampleFolder, model: Model) -> list[str]:
    manifest, trained = folder.manifest, model.description
    return [key for key in ("schedule", "prediction") if key in manifest and manifest[key] != trained.get(key)]


def _variance(folder: SampleFolder, model: Model) -> list[str]:
    given, trained = folder.manifest.get("variance"), (model.description.get("variance") or {}).get("kind")
    usual = given == "fixed_small" and trained == "fixed_large"  # what sample does by itself on spaced chains
    if not folder.needs_variance or given is None or given == trained or usual:
        return []
    return [f"variance: sampled with {given}, trained with {trained}"]


def _times(folder: SampleFolder, model: Model) -> list[str]:
    times, schedule = folder.times, model.schedule
    if not times or schedule is None:
        return []
    if times[0] > schedule.T:
        return [f"it starts at t = {times[0]}, the model knows t up to {schedule.T}"]
    found = []
    signal = float(schedule.alpha_bar[times[0]])
    if times[0] < schedule.T and signal > SIGNAL_LEFT:
        found.append(
            f"it starts at t = {times[0]} of {schedule.T}, where the model expects {100 * signal**0.5:.0f} % of an "
            "image and gets noise"
        )
    if len(times) - 1 < min(FEW // folder.order, schedule.T):
        found.append(f"{len(times) - 1} steps of {folder.sampler or 'a sampler'} are few")
    if times[-1] != 0:
        found.append(f"it stops at t = {times[-1]}, not at 0")
    return found


def _harm(folder: SampleFolder, evidence: Evidence) -> tuple[float, tuple[str, ...]]:
    """A score by how much worse the images are than fresh ones, and the numbers."""
    real, fresh = evidence.real, evidence.fresh
    if real is None or fresh is None or real.shape != folder.facts.shape:
        return 0.55, ("what the images should look like is not known (--data SOURCE tells)",)
    # sets of n images scatter by the standard errors of their means
    scatter = 3 * max(m.error for m in folder.facts.mean) if folder.facts.n > 1 else 3 * real.deviation[0].value
    theirs, ours = apart(folder.facts, real), apart(fresh.facts, real)
    numbers = (
        f"its grey levels are {theirs:.1f} away from the data, those of {fresh.facts.n} fresh samples {ours:.1f}",
    )
    if theirs > 2 * ours + max(VISIBLE, scatter):
        return 0.96, numbers
    return (0.6 if theirs > ours + max(VISIBLE, scatter) else 0.3), numbers


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" if k != "kind" else str(v) for k, v in value.items() if not isinstance(v, list))
    return str(value)


def _none(value: object) -> str:
    return "none" if value is None else str(value)
