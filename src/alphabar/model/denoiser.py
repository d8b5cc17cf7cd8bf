"""A network, a schedule and four conventions make one probabilistic step p_θ(x_s | x_t).

What the network predicts, how the variance is formed, which number it is told for t, and how x̂_0 is clipped exist only
here. Samplers, the bound and guidance see an :class:`Estimate` and never the network's output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError
from alphabar.base.pixels import Units
from alphabar.base.registry import Registry
from alphabar.base.tensors import Coef
from alphabar.model.prediction import Eps, Prediction, Score
from alphabar.model.variance import FixedLarge, Variance
from alphabar.process import equations as eq
from alphabar.process.chain import Transition
from alphabar.process.schedules.base import Schedule

__all__ = ["TIME_INPUTS", "Clip", "Denoise", "Denoiser", "Estimate", "Index", "TimeInput"]


@choice
class Clip:
    """x̂_0 is held within ±``limit``, as Ho et al.'s code does at every sampling step."""

    limit: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, x0: Tensor) -> Tensor:
        """``x0`` [B, C, H, W] within the limits."""
        return x0.clamp(-self.limit, self.limit)


class TimeInput(Protocol):
    """The number by which a network is told the time t."""

    def __call__(self, t: int | Tensor, batch: int, device: torch.device) -> Tensor:
        """[B] on ``device``, from one t for the whole batch or one per image."""
        ...


@choice
class Index:
    """The paper's code and the review count from 0: the network is told t − 1, an int64 in 0 … T−1."""

    def __call__(self, t: int | Tensor, batch: int, device: torch.device) -> Tensor:
        """t − 1 for every image: int64 [B], of which one number is stored where t is one."""
        if isinstance(t, Tensor):
            return (t - 1).to(device)
        return torch.full((1,), t - 1, dtype=torch.int64, device=device).expand(batch)


TIME_INPUTS: Registry[type[TimeInput]] = Registry("time_inputs", {"index": Index})


class Denoiser(nn.Module):
    """Eq. 1.  p_θ(x_s | x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t)); ``denoiser(x_t, transition)`` is the estimate of one hop.

    Args:
        net: a callable ``(x_t [B,C,H,W], time [B], **cond) → [B,C,H,W]``, with 2C channels for a learned variance.
        schedule: the process it was (or will be) trained on.
        prediction: what the network outputs.
        variance: how σ² is formed.
        clip: how x̂_0 is kept in range (a number is the limit of a ``Clip``), or None for data without a range.
        shape: (C, H, W) of one image.
        time_input: which number the network is told for t.
        autocast: low precision inside the network only, e.g. ``torch.bfloat16``.
        units: what the ends of the range mean where the data were not 8-bit pixels, else None.

    Raises:
        ConfigError: if the network is asked to predict ε or the score where ᾱ_T = 0, which says nothing about x_0.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        schedule: Schedule,
        *,
        shape: tuple[int, int, int],
        prediction: Prediction | None = None,
        variance: Variance | None = None,
        clip: Clip | float | None = 1.0,
        time_input: TimeInput | None = None,
        autocast: torch.dtype | None = None,
        units: Units | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise ConfigError(f"schedule: got {type(schedule).__name__}, need its table; call .build() on it")
        self.net = net
        self.schedule = schedule
        self.shape = shape
        self.prediction = prediction if prediction is not None else Eps()
        self.variance = variance if variance is not None else FixedLarge()
        self.clip = Clip(clip) if isinstance(clip, int | float) else clip
        self.time_input = time_input if time_input is not None else Index()
        self.autocast = autocast
        self.units = units
        if float(schedule.alpha_bar[-1]) == 0 and isinstance(self.prediction, Eps | Score):
            raise ConfigError(
                f"prediction: {type(self.prediction).__name__} says nothing about x_0 where alpha_bar_T = 0; "
                "use V() or X0() with this schedule (denoiser.prediction=v)"
            )

    def forward(self, x_t: Tensor, tr: Transition, **cond: Any) -> Estimate:
        """The estimate at ``x_t`` [B, C, H, W] for the hop ``tr``; ``cond`` (labels ``y`` [B]) goes to the network."""
        if not isinstance(tr, Transition):
            raise ConfigError(f"transition: got {type(tr).__name__}; give an element of a chain, or chain.at(t)")
        time = self.time_input(tr.t, len(x_t), x_t.device)
        if self.autocast is None:
            out = self.net(x_t, time, **cond)
        else:
            with torch.autocast(x_t.device.type, self.autocast):
                out = self.net(x_t, time, **cond)
        wanted = x_t.shape[1] * self.variance.channels
        if out.shape != (x_t.shape[0], wanted, *x_t.shape[2:]):
            raise ConfigError(
                f"network output is {list(out.shape)} for x_t {list(x_t.shape)} and variance "
                f"{type(self.variance).__name__}; it must be [{x_t.shape[0]}, {wanted}, …] of the same size"
            )
        return Estimate(self, out.to(x_t.dtype), x_t, tr)


class Estimate:
    """What a network says at (x_t, t → s), in every form, each computed when first asked for.

    ``x0`` is clipped and ``eps`` fits it; ``x0_raw``, which training uses, and ``mean_raw`` are not clipped.
    All are [B, C, H, W] in the precision of x_t, except ``log_var`` of a fixed kind: a float, or float64 [B].
    """

    def __init__(self, denoiser: Denoiser, output: Tensor, x_t: Tensor, tr: Transition) -> None:
        self.denoiser = denoiser
        self.x_t = x_t
        self.tr = tr
        halves = output.chunk(denoiser.variance.channels, dim=1)
        self.out = halves[0]
        self._variance_out = halves[1] if len(halves) > 1 else None

    @cached_property
    def _trained(self) -> Transition:
        """The hop t → t − 1, which the network was trained on, whatever chain it is asked along: μ̃ is that hop's."""
        t, abar = self.tr.t, self.denoiser.schedule.alpha_bar
        if isinstance(t, Tensor):
            return self.tr._replace(s=t - 1, abar_s=abar.to(t.device)[t - 1])
        return self.tr._replace(s=t - 1, abar_s=float(abar[t - 1]))

    @cached_property
    def x0_raw(self) -> Tensor:
        """x̂_0 as predicted."""
        return self.denoiser.prediction.x0(self.out, self.x_t, self._trained)

    @cached_property
    def x0(self) -> Tensor:
        """x̂_0, clipped."""
        return self.x0_raw if self.denoiser.clip is None else self.denoiser.clip(self.x0_raw)

    @cached_property
    def eps(self) -> Tensor:
        """ε̂, re-derived from the clipped x̂_0 so that the two stay one pair."""
        if self.denoiser.clip is None:
            return self.denoiser.prediction.eps(self.out, self.x_t, self._trained)
        return eq.eps_from_x0(self.x_t, self.x0, self.tr.abar_t)

    @cached_property
    def v(self) -> Tensor:
        """v̂ of the pair (x̂_0, ε̂)."""
        return eq.v_from(self.x0, self.eps, self.tr.abar_t)

    @cached_property
    def score(self) -> Tensor:
        """The score ∇ ln p(x_t) that belongs to ε̂."""
        return eq.score_from_eps(self.eps, self.tr.abar_t)

    @cached_property
    def mean(self) -> Tensor:
        """μ_θ, Eq. 7 with the clipped x̂_0 (Eq. 11 where nothing is clipped)."""
        return eq.posterior(self.x0, self.x_t, self.tr.abar_t, self.tr.abar_s)

    @cached_property
    def mean_raw(self) -> Tensor:
        """μ_θ with the unclipped x̂_0."""
        return eq.posterior(self.x0_raw, self.x_t, self.tr.abar_t, self.tr.abar_s)

    @cached_property
    def log_var(self) -> Coef | Tensor:
        """Ln σ² of p_θ(x_s | x_t)."""
        return self.denoiser.variance.log_var(self._variance_out, self.tr)


Denoise = Callable[[Tensor, Transition], Estimate]
