"""The model card: what a network is and what it costs, for ``inspect`` and for the plan of ``train``."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from alphabar.base.choice import describe
from alphabar.model.cost import flops_per_image
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn.embed import SinusoidalPositionEmbeddings
from alphabar.process.chain import Chain
from alphabar.process.schedules import SCHEDULES, Schedule

__all__ = ["model_card", "parameters"]


def parameters(net: nn.Module) -> int:
    """How many numbers the network learns: all but a stored table of sinusoids."""
    tables = [m.time_blocks[0] for m in net.modules() if isinstance(m, SinusoidalPositionEmbeddings)]
    fixed = {id(p) for table in tables for p in table.parameters()}
    return sum(p.numel() for p in net.parameters() if id(p) not in fixed)


def _named(schedule: Schedule) -> str:
    """The kind of the schedule and what was chosen about it, without a long table."""
    if schedule.spec is None:
        return "given table"
    facts = describe(SCHEDULES, schedule.spec)
    return ", ".join([facts.pop("kind"), *(f"{k} = {v}" for k, v in facts.items() if not isinstance(v, list))])


def _kind(layer: nn.Module) -> str:
    return "Linear" if isinstance(layer, nn.Linear) else type(layer).__name__


def model_card(denoiser: Denoiser) -> list[str]:
    """The card, a line per fact."""
    net = unet(denoiser)
    config = net.config
    schedule = denoiser.schedule
    layers = Counter(_kind(m) for m in net.modules() if not list(m.children()) and not isinstance(m, nn.Identity))
    table = sum(p.numel() for p in net.parameters()) - parameters(net)
    channels, height, width = denoiser.shape
    patch = config.patch_size
    sides = [f"{rows}x{columns}" for rows, columns in config.sizes(height, width)]
    sides[0] += f" patches of {patch}x{patch}" if patch > 1 else ""
    floor = Chain.full(schedule).var_floor
    units = denoiser.units
    return [
        f"images       {channels} x {height} x {width}"
        + (f", {config.num_classes} classes" if config.num_classes else ""),
        f"network      U-Net, {parameters(net):,} parameters"
        + (f" (and a table of {table:,} sinusoids)" if table else ""),
        *([f"units        -1 … 1 is {units.low:g} … {units.high:g}, samples as {units.dtype}"] if units else []),
        "levels       "
        + ", ".join(
            f"{side}: {w} channels{' + attention' if attend else ''}"
            for side, w, attend in zip(sides, config.widths, config.apply_attention, strict=True)
        ),
        "layers       " + ", ".join(f"{n} {name}" for name, n in layers.most_common()),
        f"cost         {flops_per_image(denoiser) / 1e9:.4g} GFLOP per image and network call",
        f"schedule     {_named(schedule)}",
        f"             beta {float(schedule.betas[0]):.4g} … {float(schedule.betas[-1]):.4g}, "
        f"alpha_bar_T = {float(schedule.alpha_bar[-1]):.4g}, sigma^2 at t = 1: {floor:.4g}",
        f"predicts     {type(denoiser.prediction).__name__}, variance {type(denoiser.variance).__name__}, "
        f"{denoiser.clip if denoiser.clip is not None else 'no clipping'}",
        f"precision    {str(denoiser.autocast or torch.float32).removeprefix('torch.')} inside the network",
    ]
