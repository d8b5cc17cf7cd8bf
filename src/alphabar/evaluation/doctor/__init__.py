"""Which of the known causes spoiled a run. A new cause is a file in ``causes/`` and a line here.

``examine(gather(...))`` lists the findings, the likeliest first. Where scores are equal the order below decides: what
spoils everything after it comes first.
"""

from __future__ import annotations

from collections.abc import Callable

from alphabar.base.registry import Registry
from alphabar.evaluation.doctor.causes.bad_weights import bad_weights
from alphabar.evaluation.doctor.causes.chain_end import chain_end
from alphabar.evaluation.doctor.causes.channels import channels
from alphabar.evaluation.doctor.causes.colour_drift import colour_drift
from alphabar.evaluation.doctor.causes.data_range import data_range
from alphabar.evaluation.doctor.causes.ema_initial import ema_initial
from alphabar.evaluation.doctor.causes.overfit import overfit
from alphabar.evaluation.doctor.causes.rate_too_high import rate_too_high
from alphabar.evaluation.doctor.causes.residual_noise import residual_noise
from alphabar.evaluation.doctor.causes.sampling_settings import sampling_settings
from alphabar.evaluation.doctor.causes.under_trained import under_trained
from alphabar.evaluation.doctor.evidence import Evidence, gather
from alphabar.evaluation.doctor.finding import SICK, Finding

__all__ = ["CAUSES", "SICK", "Cause", "Evidence", "Finding", "examine", "gather"]

Cause = Callable[[Evidence], Finding | None]

CAUSES: Registry[Cause] = Registry(
    "causes",
    {
        "bad-weights": bad_weights,
        "data-range": data_range,
        "channels": channels,
        "chain-end": chain_end,
        "rate-too-high": rate_too_high,
        "ema-initial": ema_initial,
        "overfit": overfit,
        "residual-noise": residual_noise,
        "sampling-settings": sampling_settings,
        "under-trained": under_trained,
        "colour-drift": colour_drift,
    },
)


def examine(evidence: Evidence) -> list[Finding]:
    """Every finding, the likeliest first."""
    found = [finding for cause in CAUSES.values() if (finding := cause(evidence)) is not None]
    return sorted(found, key=lambda finding: -finding.score)
