"""The training loops of the peers, around a network of any size: their loss, optimiser, rate, clipping and EMA.

Each function takes the network where it is to be trained and gives a :class:`Loop`. ``precision`` makes the context in
which the network runs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Loop", "denoising_diffusion_pytorch", "diffusers", "pytorch_ddpm"]

Precision = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Loop:
    """``step`` trains on images [B, C, H, W] in [-1, 1]; ``averaged`` is the network with the averaged weights."""

    step: Callable[[Tensor], object]
    averaged: Callable[[], nn.Module]


def diffusers(net: nn.Module, precision: Precision = contextlib.nullcontext, rate: Any = None) -> Loop:
    """The unconditional training example. ``rate`` makes the scheduler of an optimiser's rate, if it is to change."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    schedule = DDPMScheduler(num_train_timesteps=1000)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    scheduler = None if rate is None else rate(optimizer)

    def step(x0: Tensor) -> object:
        eps = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),), device=x0.device)
        x_t = schedule.add_noise(x0, eps, t)
        with precision():
            out = net(x_t, t).sample
        loss = functional.mse_loss(out.float(), eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        return loss.item()

    def averaged() -> nn.Module:
        twin = copy.deepcopy(net)
        ema.copy_to(twin.parameters())
        return twin

    return Loop(step, averaged)


def denoising_diffusion_pytorch(diffusion: nn.Module, precision: Precision = contextlib.nullcontext) -> Loop:
    """Its Trainer's step; ``diffusion`` is its GaussianDiffusion around the network."""
    from ema_pytorch import EMA

    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)

    def step(x0: Tensor) -> object:
        with precision():
            loss = diffusion((x0 + 1) / 2)
        total = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        return total

    return Loop(step, lambda: ema.ema_model.model)


def pytorch_ddpm(net: nn.Module, precision: Precision = contextlib.nullcontext) -> Loop:
    """The loop of w86763777's main.py without logging. Its folder is on sys.path."""
    import main as peer
    from diffusion import GaussianDiffusionTrainer

    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lambda step: min(step + 1, 5000) / 5000)
    trainer = GaussianDiffusionTrainer(net, 1e-4, 0.02, 1000).to(next(net.parameters()).device)

    def step(x0: Tensor) -> object:
        optimizer.zero_grad()
        with precision():
            loss = trainer(x0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        peer.ema(net, average, 0.9999)
        return loss.item()

    return Loop(step, lambda: average)
