"""The U-Net inside a denoiser, for what only a U-Net can do: be described, saved, told labels."""

from __future__ import annotations

from alphabar.base.errors import ConfigError
from alphabar.model.denoiser import Denoiser
from alphabar.model.nn import UNet

__all__ = ["unet"]


def unet(denoiser: Denoiser) -> UNet:
    """``denoiser.net``.

    Raises:
        ConfigError: if it is not a ``UNet``: another network cannot be rebuilt from a description.
    """
    if not isinstance(denoiser.net, UNet):
        raise ConfigError(f"the network is {type(denoiser.net).__name__}; saving and describing need a UNet")
    return denoiser.net
