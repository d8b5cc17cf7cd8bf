"""Noise left in samples by σ² = β on a chain that skips steps: each hop adds more than the next can remove."""

from __future__ import annotations

import math

from alphabar.evaluation.doctor.evidence import Evidence, Model
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.sample_folders import SampleFolder
from alphabar.process.equations import beta, beta_tilde

__all__ = ["residual_noise"]

VISIBLE = 2.0  # grey levels
SURE = 3.0


def residual_noise(evidence: Evidence) -> Finding | None:
    """Look for folders drawn with σ² = β on a spaced chain, and measure their noise against the data."""
    model, found = evidence.model, []
    if model is None:
        return None
    for folder in evidence.folders:
        expected = _expected(folder, model)
        if expected is not None and expected > VISIBLE:
            found.append((*_measured(folder, evidence), folder, expected))
    if not found:
        return None
    score, number, folder, expected = max(found, key=lambda item: item[0])
    steps = len(folder.times) - 1
    return Finding(
        "residual-noise",
        f"samples/{folder.name} keeps noise that the sampler added: sigma^2 = beta on a chain of {steps} steps",
        score,
        (f"the last hop that draws noise adds {expected:.1f} grey levels more than q(x_s | x_t, x_0) has", *number),
        f"alphabar sample {evidence.run} --steps {steps} denoiser.variance=fixed_small, or all T steps",
    )


def _expected(folder: SampleFolder, model: Model) -> float | None:
    """127.5 √(β − β̃) of the last hop that ends above 0, the noise that no later hop is told of."""
    times, schedule = folder.times, model.schedule
    if schedule is None or len(times) < 3 or times[0] > schedule.T or len(times) - 1 >= schedule.T:
        return None
    if not folder.needs_variance or folder.manifest.get("variance") != "fixed_large":
        return None
    abar_t, abar_s = (float(schedule.alpha_bar[t]) for t in times[-3:-1])
    return 127.5 * math.sqrt(max(float(beta(abar_t, abar_s)) - float(beta_tilde(abar_t, abar_s)), 0.0))


def _measured(folder: SampleFolder, evidence: Evidence) -> tuple[float, tuple[str, ...]]:
    real = evidence.real
    if real is None or real.shape != folder.facts.shape:
        return 0.8, ()
    excess = folder.facts.roughness.value - real.roughness.value
    if folder.facts.roughness.beyond(real.roughness) < SURE or excess < VISIBLE**2:
        return 0.4, ("its images are not rougher than the data",)
    return 0.97, (f"its {folder.facts.n} images hold {excess**0.5:.1f} grey levels of noise more than the data",)
