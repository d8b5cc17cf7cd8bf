"""Families of ᾱ tables. A new one is a file with a frozen spec (``build() → Schedule``) and a line here."""

from __future__ import annotations

from alphabar.base.registry import Registry
from alphabar.process.schedules.base import Schedule, ScheduleSpec
from alphabar.process.schedules.cosine import Cosine
from alphabar.process.schedules.polynomial import (
    JSD,
    Constant,
    FromAlphaBar,
    FromBetas,
    Linear,
    Quadratic,
    Warmup10,
    Warmup50,
)
from alphabar.process.schedules.sigmoid import Sigmoid

__all__ = [
    "JSD",
    "SCHEDULES",
    "Constant",
    "Cosine",
    "FromAlphaBar",
    "FromBetas",
    "Linear",
    "Quadratic",
    "Schedule",
    "ScheduleSpec",
    "Sigmoid",
    "Warmup10",
    "Warmup50",
]

SCHEDULES: Registry[type[ScheduleSpec]] = Registry(
    "schedules",
    {
        "linear": Linear,
        "quadratic": Quadratic,
        "constant": Constant,
        "warmup10": Warmup10,
        "warmup50": Warmup50,
        "jsd": JSD,
        "cosine": Cosine,
        "sigmoid": Sigmoid,
        "betas": FromBetas,
        "alpha_bar": FromAlphaBar,
    },
)
