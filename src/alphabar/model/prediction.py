"""What the network was asked for: ε, x_0, v, μ̃ or the score.

Each is a linear change of variables at a given hop, so each converts into each. A prediction knows three things: how
its output gives x̂_0, how it gives ε̂, and what the network should have said (``target``).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.base.registry import Registry
from alphabar.process import equations as eq
from alphabar.process.chain import Transition

__all__ = ["PREDICTIONS", "X0", "Eps", "Mean", "Prediction", "Score", "V", "convert"]


class Prediction(Protocol):
    """A linear change of variables between the network's output and (x_0, ε), all [B, C, H, W]."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """x̂_0 from the output."""
        ...

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """ε̂ from the output."""
        ...

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The output of a perfect network, given the truth."""
        ...


@choice
class Eps:
    """The noise ε of Eq. 4, the paper's choice (Eqs. 9–14)."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """x̂_0 by Eq. 15."""
        return eq.x0_from_eps(x_t, out, tr.abar_t)

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """The output itself."""
        return out

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """ε."""
        return eps


@choice
class X0:
    """The image x_0."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """The output itself."""
        return out

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """ε̂ by Eq. 9 solved for ε."""
        return eq.eps_from_x0(x_t, out, tr.abar_t)

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """x_0."""
        return x0


@choice
class V:
    """The velocity v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans and Ho 2022), which stays defined where ᾱ_t = 0."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """x̂_0 = √ᾱ_t x_t − √(1−ᾱ_t) v."""
        return eq.x0_from_v(x_t, out, tr.abar_t)

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """ε̂ = √(1−ᾱ_t) x_t + √ᾱ_t v."""
        return eq.eps_from_v(x_t, out, tr.abar_t)

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """V of the truth."""
        return eq.v_from(x0, eps, tr.abar_t)


@choice
class Mean:
    """The posterior mean μ̃ of the hop t → s (Eqs. 7–8, the paper's baseline in Table 2)."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """x̂_0 by Eq. 7 solved for x_0."""
        return eq.x0_from_mean(out, x_t, tr.abar_t, tr.abar_s)

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """ε̂ from that x̂_0."""
        return eq.eps_from_x0(x_t, self.x0(out, x_t, tr), tr.abar_t)

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """μ̃(x_t, x_0) at x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε."""
        return eq.posterior(x0, eq.q_sample(x0, eps, tr.abar_t), tr.abar_t, tr.abar_s)


@choice
class Score:
    """The score ∇ ln q(x_t), the Langevin reading of the paper (§3.2)."""

    def x0(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """x̂_0 by Eq. 15 with ε̂ = −√(1−ᾱ_t) score."""
        return eq.x0_from_eps(x_t, eq.eps_from_score(out, tr.abar_t), tr.abar_t)

    def eps(self, out: Tensor, x_t: Tensor, tr: Transition) -> Tensor:
        """ε̂ = −√(1−ᾱ_t) score."""
        return eq.eps_from_score(out, tr.abar_t)

    def target(self, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The score of q(x_t | x_0), −ε/√(1−ᾱ_t)."""
        return eq.score_from_eps(eps, tr.abar_t)


PREDICTIONS: Registry[type[Prediction]] = Registry(
    "predictions", {"eps": Eps, "x0": X0, "v": V, "mean": Mean, "score": Score}
)


def convert(out: Tensor, x_t: Tensor, tr: Transition, given: Prediction, wanted: Prediction) -> Tensor:
    """The output ``out`` [B, C, H, W] of a network that predicts ``given``, as one that predicts ``wanted``."""
    return wanted.target(given.x0(out, x_t, tr), given.eps(out, x_t, tr), tr)
