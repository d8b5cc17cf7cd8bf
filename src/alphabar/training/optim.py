"""The optimiser, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from alphabar.base.choice import choice
from alphabar.base.registry import Registry
from alphabar.training.muon import Muon, is_matrix

__all__ = ["LR_SHAPES", "OPTIMIZERS", "OptimConfig", "build_optimizer", "kept_for", "lr_at"]


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


OPTIMIZERS: Registry[type[Adam]] = Registry("optimizers", {"adam": Adam, "adamw": AdamW, "muon": Muon})
LR_SHAPES: Registry[Callable[[float], float]] = Registry("rates", {"constant": _constant, "cosine": _cosine})


@choice
class OptimConfig:
    """The paper's Adam by default: rate 2e-4, reached linearly, then constant; gradients clipped to norm 1.

    Attributes:
        optimizer: ``adam``, ``adamw``, or ``muon`` (for matrices and convolutions, ``adamw`` for the rest).
        lr: the highest rate.
        rate: ``constant``, or ``cosine`` from ``lr`` to 0 at the last step.
        warmup_steps: over how many steps the rate rises linearly from 0.
        betas: Adam's two decays.
        weight_decay: in [0, 1).
        clip_norm: the largest norm of the whole gradient.
    """

    optimizer: str = "adam"
    lr: Annotated[float, Field(gt=0, le=1)] = 2e-4
    rate: str = "constant"
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 5000
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        """Check that the names are known."""
        OPTIMIZERS.named(self.optimizer, "optim.optimizer")
        LR_SHAPES.named(self.rate, "optim.rate")


def build_optimizer(net: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser of every weight of ``net`` that learns, in the order of ``net.named_parameters()``.

    For Muon in two groups: matrices, without tables of embeddings, whose rows have nothing to do with each other; the
    rest.
    """
    weights = [p for p in net.parameters() if p.requires_grad]
    kind = OPTIMIZERS[config.optimizer]
    groups: list[dict[str, Any]] = [{"params": weights}]
    if issubclass(kind, Muon):
        tables = {module.weight for module in net.modules() if isinstance(module, nn.Embedding)}
        matrices = [p for p in weights if is_matrix(p) and p not in tables]
        chosen = set(matrices)
        others = [p for p in weights if p not in chosen]
        groups = [{"params": matrices, "orthogonal": True}, {"params": others, "orthogonal": False}]
    return kind(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def kept_for(optimizer: Optimizer) -> dict[Tensor, set[str]]:
    """The names of what the optimiser keeps from step to step, for each weight."""
    return {
        weight: {"momentum"} if group.get("orthogonal") else {"step", "exp_avg", "exp_avg_sq"}
        for group in optimizer.param_groups
        for weight in group["params"]
    }


def lr_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """The rate of the update that follows ``step`` finished ones (0 … total_steps − 1)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.lr * LR_SHAPES[config.rate](progress)
