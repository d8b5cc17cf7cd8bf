"""The two conversions between stored pixels and the model's range, used at the borders and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError, Diverged

__all__ = ["to_model_range", "to_uint8"]


def to_model_range(pixels: Tensor, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Stored pixels to data: uint8 [...] in 0…255 → float [...] in [−1, 1] by x/127.5 − 1 (Ho et al. §3.3).

    Raises:
        ConfigError: if ``pixels`` is not uint8, because a float image may already be scaled.
    """
    if pixels.dtype != torch.uint8:
        raise ConfigError(f"pixels: got {pixels.dtype}, need uint8 in 0…255; convert with to_uint8 first")
    return pixels.to(device).to(dtype) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Data to stored pixels: float [...] → uint8 [...] by rounding (x + 1)·127.5 to the nearest level.

    Values outside [−1, 1] take the nearest end: a sampler's last mean may leave the range by a little.

    Raises:
        Diverged: if ``x`` holds NaN or infinity, which have no grey level.
    """
    if not torch.isfinite(x).all():
        raise Diverged("images: NaN or infinite values cannot become pixels; the network or the sampler diverged")
    return ((x.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
