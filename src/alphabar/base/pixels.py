"""The two conversions between stored pixels and the model's range, used at the borders and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphabar.base.errors import ConfigError, Diverged

__all__ = ["Units", "to_model_range", "to_uint8"]

DTYPES = ("uint16", "float32")


@dataclass(frozen=True)
class Units:
    """What the ends of the model's range mean for data that were not 8-bit pixels: −1 is ``low`` and 1 is ``high``.

    ``dtype`` is the one in which samples are written, ``uint16`` or ``float32``.

    Raises:
        ConfigError: unless low < high are finite and the dtype is one of the two.
    """

    low: float
    high: float
    dtype: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"units: from {self.low} to {self.high}; need two finite numbers, the lower one first")
        if self.dtype not in DTYPES:
            raise ConfigError(f"units: dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")

    def values(self, x: Tensor) -> npt.NDArray[np.generic]:
        """Data float [...] in [−1, 1] as stored values: low + (x + 1)/2 · (high − low), in ``dtype``.

        Values outside [−1, 1] take the nearest end, as in :func:`to_uint8`.
        """
        share = (x.detach().cpu().double().clamp(-1, 1) + 1) / 2
        values: npt.NDArray[np.float64] = (self.low + share * (self.high - self.low)).numpy()
        if self.dtype == "uint16":
            return np.clip(np.rint(values), 0, 65535).astype(np.uint16)
        return values.astype(np.float32)


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
