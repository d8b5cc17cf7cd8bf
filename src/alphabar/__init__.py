"""alphabar: Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel 2020), exact and usable.

Names are imported when first used, so that ``import alphabar`` is quick and the command line can print its help
without loading PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alphabar.base.version import __version__

if TYPE_CHECKING:
    from alphabar import samplers
    from alphabar.base.errors import AlphabarError, AlphabarWarning
    from alphabar.base.pixels import to_model_range, to_uint8
    from alphabar.base.rng import PerImage, Rng, stream
    from alphabar.data.sources import SOURCES, open_source
    from alphabar.evaluation.likelihood import Bound, variational_bound
    from alphabar.model.denoiser import Clip, Denoiser, Estimate
    from alphabar.model.nn import UNet, UNetConfig
    from alphabar.model.prediction import PREDICTIONS, X0, Eps, Mean, Score, V
    from alphabar.model.variance import VARIANCES, FixedLarge, FixedSmall, Learned, LearnedRange
    from alphabar.process import equations, schedules
    from alphabar.process.chain import Chain, Transition
    from alphabar.process.schedules import SCHEDULES, Schedule
    from alphabar.runtime import recipes
    from alphabar.runtime.config import RunConfig, load_config
    from alphabar.samplers import SAMPLERS
    from alphabar.samplers.driver import Frame, sample, trajectory
    from alphabar.samplers.generate import generate
    from alphabar.training import objectives
    from alphabar.training.objectives import OBJECTIVES
    from alphabar.training.trainer import build, fit
    from alphabar.weights.checkpoint import load, save

_HOMES = {
    "base.errors": ("AlphabarError", "AlphabarWarning"),
    "base.pixels": ("to_model_range", "to_uint8"),
    "base.rng": ("PerImage", "Rng", "stream"),
    "data.sources": ("SOURCES", "open_source"),
    "evaluation.likelihood": ("Bound", "variational_bound"),
    "model.denoiser": ("Clip", "Denoiser", "Estimate"),
    "model.nn": ("UNet", "UNetConfig"),
    "model.prediction": ("PREDICTIONS", "V", "X0", "Eps", "Mean", "Score"),
    "model.variance": ("VARIANCES", "FixedLarge", "FixedSmall", "Learned", "LearnedRange"),
    "process.chain": ("Chain", "Transition"),
    "process.schedules": ("SCHEDULES", "Schedule"),
    "runtime.config": ("RunConfig", "load_config"),
    "samplers": ("SAMPLERS",),
    "samplers.driver": ("Frame", "sample", "trajectory"),
    "samplers.generate": ("generate",),
    "training.objectives": ("OBJECTIVES",),
    "training.trainer": ("build", "fit"),
    "weights.checkpoint": ("load", "save"),
}
_MODULES = {
    "equations": "process.equations",
    "objectives": "training.objectives",
    "recipes": "runtime.recipes",
    "samplers": "samplers",
    "schedules": "process.schedules",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "OBJECTIVES",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SOURCES",
    "VARIANCES",
    "X0",
    "AlphabarError",
    "AlphabarWarning",
    "Bound",
    "Chain",
    "Clip",
    "Denoiser",
    "Eps",
    "Estimate",
    "FixedLarge",
    "FixedSmall",
    "Frame",
    "Learned",
    "LearnedRange",
    "Mean",
    "PerImage",
    "Rng",
    "RunConfig",
    "Schedule",
    "Score",
    "Transition",
    "UNet",
    "UNetConfig",
    "V",
    "__version__",
    "build",
    "equations",
    "fit",
    "generate",
    "load",
    "load_config",
    "objectives",
    "open_source",
    "recipes",
    "sample",
    "samplers",
    "save",
    "schedules",
    "stream",
    "to_model_range",
    "to_uint8",
    "trajectory",
    "variational_bound",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"alphabar.{_MODULES[name]}")
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(f"alphabar.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'alphabar' has no attribute {name!r}; public are {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
