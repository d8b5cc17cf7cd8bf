"""One-pixel data on a few grey values: the optimal denoiser, the bound and the *true* likelihood, by quadrature.

Laws: empirical Bayes E[x0|x_t] = Σ w_i y_i with w = softmax(ln π_i − (x_t − √ᾱ_t y_i)² / 2(1−ᾱ_t)); the bound's terms
by integrating Gaussian KLs over q(x_t); −ln p(x0) by pushing the density of x_T through every reverse transition on a
grid (transfer matrices), which no variational argument enters.  See "exactness", part B2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from oracles import decoder
from oracles.gaussian import Array, condition

# Trapezoidal sums of analytic, decaying integrands converge geometrically; 1e-13 long before this spacing.
NORMAL_NODES = np.linspace(-9.0, 9.0, 721)
NORMAL_WEIGHTS = np.exp(-0.5 * NORMAL_NODES**2) * (NORMAL_NODES[1] - NORMAL_NODES[0]) / (2 * np.pi) ** 0.5


@dataclass(frozen=True)
class Atoms:
    """x0 takes ``values[i]`` with probability ``probs[i]`` (one pixel)."""

    values: Array
    probs: Array

    def x0_star(self, x_t: Array, abar: float) -> Array:
        """E[x0 | x_t] elementwise."""
        x_t = np.asarray(x_t, float)[..., None]
        logits = np.log(self.probs) - (x_t - abar**0.5 * self.values) ** 2 / (2.0 * (1.0 - abar))
        return softmax(logits, axis=-1) @ self.values

    def _states(self, abar: float) -> Array:
        """x_t for every (atom, quadrature node)."""
        return abar**0.5 * self.values[:, None] + (1.0 - abar) ** 0.5 * NORMAL_NODES

    def _expect(self, values: Array) -> float:
        """E over atoms and ε of ``values`` [atom, node]."""
        return float(self.probs @ (values @ NORMAL_WEIGHTS))

    def mmse(self, abar: float) -> float:
        """E (x0 − E[x0|x_t])²."""
        return self._expect((self.values[:, None] - self.x0_star(self._states(abar), abar)) ** 2)

    def kl_term(self, abar_t: float, abar_s: float, sigma2: float) -> float:
        """E KL(q(x_s|x_t,x0) ‖ N(μ_θ, σ²)) in nats: variances by hand, means through the posterior's x0 coefficient."""
        on_x0, _, tilde = condition(abar_t, abar_s)
        return 0.5 * (tilde / sigma2 - 1.0 + np.log(sigma2 / tilde) + on_x0**2 * self.mmse(abar_t) / sigma2)

    def prior_kl(self, abar_T: float) -> float:
        """L_T in nats."""
        return 0.5 * float(self.probs @ (abar_T * self.values**2 - abar_T - np.log1p(-abar_T)))

    def decoder_nats(self, abar_1: float, sigma2: float) -> float:
        """L_0 = −E ln p(x0 | x_1) in nats, discretised decoder."""
        mean = self.x0_star(self._states(abar_1), abar_1)
        return -self._expect(decoder.log_prob(self.values[:, None], mean, np.log(sigma2)))

    def bound_nats(self, abars: Sequence[float], variances: Sequence[float]) -> float:
        """The variational bound along a chain."""
        hops = list(zip(abars[:-1], abars[1:], variances, strict=True))
        inner = sum(self.kl_term(*hop) for hop in hops[:-1])
        return self.prior_kl(abars[0]) + inner + self.decoder_nats(hops[-1][0], hops[-1][2])

    def model_pmf(self, abars: Sequence[float], variances: Sequence[float], points: int = 1201) -> Array:
        """p_θ(x0) over the 256 grey values: the model's exact law, by transfer matrices on [−7, 7]."""
        x = np.linspace(-7.0, 7.0, points)
        step = x[1] - x[0]
        density = np.exp(-0.5 * x**2) / (2 * np.pi) ** 0.5
        hops = list(zip(abars[:-1], abars[1:], variances, strict=True))
        for abar_t, abar_s, sigma2 in hops[:-1]:
            on_x0, on_x_t, _ = condition(abar_t, abar_s)
            mean = on_x0 * self.x0_star(x, abar_t) + on_x_t * x
            kernel = np.exp(-((x[:, None] - mean) ** 2) / (2 * sigma2)) / (2 * np.pi * sigma2) ** 0.5
            density = kernel @ density * step
        abar_1, _, sigma2 = hops[-1]
        log_p = decoder.log_prob(decoder.GRID[:, None], self.x0_star(x, abar_1)[None, :], np.log(sigma2))
        return np.exp(log_p) @ density * step

    def nll_nats(self, abars: Sequence[float], variances: Sequence[float]) -> float:
        """−E ln p_θ(x0), the model's true cross-entropy on this data."""
        k = np.rint((self.values + 1.0) * 127.5).astype(int)
        return -float(self.probs @ np.log(self.model_pmf(abars, variances)[k]))

    def entropy(self) -> float:
        """Entropy of the data, nats: no model can code it shorter."""
        return -float(self.probs @ np.log(self.probs))
