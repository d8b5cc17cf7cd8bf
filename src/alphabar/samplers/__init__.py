"""Update rules for one driver. A new one is a file with a frozen value (see ``Sampler``) and a line here."""

from __future__ import annotations

from alphabar.base.registry import Registry
from alphabar.samplers.ancestral import Ancestral
from alphabar.samplers.ddim import DDIM
from alphabar.samplers.dpmpp_2m import DPMSolverPP2M
from alphabar.samplers.dpmpp_2m_sde import SDEDPMSolverPP2M
from alphabar.samplers.driver import Frame, Sampler, Step, network_calls, sample, trajectory
from alphabar.samplers.heun import Heun
from alphabar.samplers.inversion import invert
from alphabar.samplers.plms import PLMS
from alphabar.samplers.predictor_corrector import PredictorCorrector

__all__ = [
    "DDIM",
    "PLMS",
    "SAMPLERS",
    "Ancestral",
    "DPMSolverPP2M",
    "Frame",
    "Heun",
    "PredictorCorrector",
    "SDEDPMSolverPP2M",
    "Sampler",
    "Step",
    "invert",
    "network_calls",
    "sample",
    "trajectory",
]

SAMPLERS: Registry[type[Sampler]] = Registry(
    "samplers",
    {
        "ancestral": Ancestral,
        "ddim": DDIM,
        "dpmpp_2m": DPMSolverPP2M,
        "dpmpp_2m_sde": SDEDPMSolverPP2M,
        "heun": Heun,
        "plms": PLMS,
        "predictor_corrector": PredictorCorrector,
    },
)
