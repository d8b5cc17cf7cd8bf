"""Networks. They know nothing of diffusion: ``net(x, time, **cond) → out``."""

from __future__ import annotations

from alphabar.model.nn.blocks import AttentionBlock, DownSample, ResnetBlock, UpSample
from alphabar.model.nn.embed import SinusoidalPositionEmbeddings
from alphabar.model.nn.unet import CIFAR10, LSUN256, UNet, UNetConfig

__all__ = [
    "CIFAR10",
    "LSUN256",
    "AttentionBlock",
    "DownSample",
    "ResnetBlock",
    "SinusoidalPositionEmbeddings",
    "UNet",
    "UNetConfig",
    "UpSample",
]
