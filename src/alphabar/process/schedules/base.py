"""The one table of the forward process: ᾱ_t for t = 0 … T, in float64 on the CPU.

Everything else (α, β, β̃, SNR, σ) is derived from it where it is used. ᾱ_0 = 1 is stored, so ``alpha_bar[t]`` is the
paper's ᾱ_t without a shift.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from alphabar.base.errors import AlphabarWarning, ConfigError

__all__ = ["Schedule", "ScheduleSpec", "finish"]


class ScheduleSpec(Protocol):
    """A frozen description of one family of schedules, which builds its table."""

    @property
    def T(self) -> int:
        """The number of steps."""
        ...

    def build(self) -> Schedule:
        """The table."""
        ...


@dataclass(frozen=True, eq=False)
class Schedule:
    """ᾱ_t for t = 0 … T: float64 [T+1], ᾱ_0 = 1, never increasing, never negative.

    ``spec`` is the description it was built from, or None when the table itself was given.

    Raises:
        ConfigError: if the table breaks one of these invariants.
    """

    alpha_bar: Tensor
    spec: ScheduleSpec | None = field(default=None)

    def __post_init__(self) -> None:
        """Check the invariants."""
        table = self.alpha_bar
        if table.dtype != torch.float64 or table.ndim != 1 or len(table) < 2:
            raise ConfigError(
                f"schedule: alpha_bar is {table.dtype} {list(table.shape)}; it must be float64 [T+1] with "
                "T ≥ 1; Schedule.from_betas and Schedule.from_alpha_bar convert"
            )
        if not torch.isfinite(table).all():
            raise ConfigError("schedule: alpha_bar has NaN or infinite values; every value must lie in [0, 1]")
        if table[0] != 1:
            raise ConfigError(f"schedule: alpha_bar[0] is {table[0]:.6g}; it must be 1, the noise-free end")
        if table[-1] < 0 or (table.diff() > 0).any():
            raise ConfigError("schedule: alpha_bar must never increase and never be negative; check the order of time")
        if (table[:-1] <= 0).any():
            raise ConfigError("schedule: alpha_bar reaches 0 before t = T; only the last value may be 0")
        if (table[1:] >= 1).any():
            raise ConfigError("schedule: alpha_bar[1] is 1; the first step must add noise (beta_1 > 0)")

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.alpha_bar) - 1

    @property
    def betas(self) -> Tensor:
        """Eq. 2.  β_t = 1 − ᾱ_t/ᾱ_{t−1} for t = 1 … T: float64 [T] (entry 0 is β_1)."""
        return 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]

    @staticmethod
    def from_betas(betas: Tensor | Sequence[float]) -> Schedule:
        """The schedule with the given β_1 … β_T ([T], each in (0, 1]).

        Raises:
            ConfigError: if a β lies outside (0, 1].
        """
        betas = torch.as_tensor(betas, dtype=torch.float64).cpu()
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ConfigError("schedule: betas must be one row of numbers in (0, 1]")
        return Schedule(torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)]))

    @staticmethod
    def from_alpha_bar(alpha_bar: Tensor | Sequence[float]) -> Schedule:
        """The schedule with the given ᾱ_0 … ᾱ_T ([T+1]); a leading ᾱ_0 = 1 is added when it is missing."""
        table = torch.as_tensor(alpha_bar, dtype=torch.float64).cpu()
        if table.ndim == 1 and len(table) and table[0] != 1:
            table = torch.cat([torch.ones(1, dtype=torch.float64), table])
        return Schedule(table)


def finish(schedule: Schedule, spec: ScheduleSpec) -> Schedule:
    """``schedule`` with its description attached; warns when x_T still carries signal, which sampling would ignore."""
    last = float(schedule.alpha_bar[-1])
    if last > 1e-3:
        warnings.warn(
            f"schedule {type(spec).__name__}(T={schedule.T}): alpha_bar_T is {last:.3g}, above 1e-3; x_T keeps "
            f"{100 * last**0.5:.0f} % of the signal but sampling starts from pure noise: raise beta_T or T",
            AlphabarWarning,
            stacklevel=3,
        )
    return Schedule(schedule.alpha_bar, spec)
