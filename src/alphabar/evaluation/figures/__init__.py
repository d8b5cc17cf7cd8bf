"""The paper's experiments as figures. A new one is a file with a ``Recipe`` and a line here.

``FIGURES["interpolation"](Subject(denoiser, chain, held_out=images))`` is a :class:`Figure`, which a notebook shows.
"""

from __future__ import annotations

from alphabar.base.registry import Registry
from alphabar.evaluation.figures.base import Figure, Table
from alphabar.evaluation.figures.coarse_to_fine import COARSE_TO_FINE
from alphabar.evaluation.figures.forward import FORWARD
from alphabar.evaluation.figures.interpolation import INTERPOLATION, Pair
from alphabar.evaluation.figures.nearest import NEAREST
from alphabar.evaluation.figures.progressive import PROGRESSIVE
from alphabar.evaluation.figures.quality import QUALITY
from alphabar.evaluation.figures.rate_distortion import RATE_DISTORTION
from alphabar.evaluation.figures.reverse import REVERSE
from alphabar.evaluation.figures.schedule import SCHEDULE
from alphabar.evaluation.figures.shared_latents import SHARED_LATENTS
from alphabar.evaluation.figures.subject import Recipe, Subject, Unavailable
from alphabar.evaluation.figures.terms import TERMS

__all__ = ["FIGURES", "Figure", "Pair", "Recipe", "Subject", "Table", "Unavailable"]

FIGURES: Registry[Recipe] = Registry(
    "figures",
    {
        "schedule": SCHEDULE,
        "forward": FORWARD,
        "reverse": REVERSE,
        "progressive": PROGRESSIVE,
        "shared_latents": SHARED_LATENTS,
        "interpolation": INTERPOLATION,
        "coarse_to_fine": COARSE_TO_FINE,
        "nearest": NEAREST,
        "rate_distortion": RATE_DISTORTION,
        "terms": TERMS,
        "quality": QUALITY,
    },
)
