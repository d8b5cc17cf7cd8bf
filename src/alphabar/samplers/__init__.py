"""Update rules for one driver. A new one is a file with a frozen value (``init``, ``step``) and a line here."""

from __future__ import annotations

from alphabar.base.registry import Registry
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.driver import Frame, Sampler, Step, sample, trajectory

__all__ = ["DDIM", "SAMPLERS", "Ancestral", "Frame", "Sampler", "Step", "sample", "trajectory"]

SAMPLERS: Registry[type[Sampler]] = Registry("samplers", {"ancestral": Ancestral, "ddim": DDIM})
