"""Gaussian data: everything a DDPM computes, in closed form.

For x0 ~ N(mean, diag(var)) the marginal of x_t is N(√ᾱ_t mean, c_t) with c_t = ᾱ_t var + 1 − ᾱ_t, the optimal denoiser
is affine, hence every sampling step is affine and every loss is quadratic.  Nothing here is estimated and nothing is
imported from the library: posteriors come from Gaussian conditioning (the Kalman gain), not from Eq. 7's coefficients.

Laws: Ho et al. 2020, Eqs. 2, 4–8, 13; Song et al. 2021 (DDIM), Eq. 12; the closed forms are derived in the
project's research notes ("exactness", part B1).  Vocabulary: ``abars`` is the sequence of ᾱ at the visited times, first
(noisiest) to last (data, ᾱ = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Array = np.ndarray


def condition(abar_t: float, abar_s: float) -> tuple[float, float, float]:
    """q(x_s | x_t, x0) = N(on_x0·x0 + on_x_t·x_t, variance), by conditioning a joint Gaussian on x_t.

    Prior x_s | x0 ~ N(√ᾱ_s x0, P) with P = 1 − ᾱ_s; observation x_t = √α x_s + √(1−α) noise.
    """
    alpha = abar_t / abar_s
    prior_var = 1.0 - abar_s
    gain = prior_var * alpha**0.5 / (alpha * prior_var + 1.0 - alpha)
    return abar_s**0.5 * (1.0 - gain * alpha**0.5), gain, (1.0 - gain * alpha**0.5) * prior_var


def hop_variances(abars: Sequence[float], kind: str, floor: float | None = None) -> list[float]:
    """σ² of every hop for ``kind`` "small" (posterior variance) or "large" (forward variance).

    The last hop (ᾱ_s = 1) uses ``floor``; without one, Ho et al.'s released convention for *both* kinds: the posterior
    variance of the hop before the last, and the forward variance when there is only one hop.
    """
    hops = list(pairwise(abars))
    if floor is None:
        floor = condition(*hops[-2])[2] if len(hops) > 1 else 1.0 - hops[0][0]
    inner = [condition(*hop)[2] if kind == "small" else 1.0 - hop[0] / hop[1] for hop in hops[:-1]]
    return [*inner, floor]


@dataclass(frozen=True)
class Gaussian:
    """Data x0 ~ N(mean, diag(var)), one entry per pixel."""

    mean: Array
    var: Array

    def marginal_var(self, abar: float) -> Array:
        """Variance of x_t."""
        return abar * self.var + 1.0 - abar

    def x0_coefficients(self, abar: float) -> tuple[Array, Array]:
        """E[x0 | x_t] = slope·x_t + offset."""
        slope = abar**0.5 * self.var / self.marginal_var(abar)
        return slope, self.mean - slope * abar**0.5 * self.mean

    def eps_coefficients(self, abar: float) -> tuple[Array, Array]:
        """E[ε | x_t] = slope·x_t + offset."""
        slope = (1.0 - abar) ** 0.5 / self.marginal_var(abar)
        return slope, -slope * abar**0.5 * self.mean

    def mmse(self, abar: float) -> float:
        """E‖x0 − E[x0|x_t]‖² = Σ var(1−ᾱ)/c_t."""
        return float(np.sum(self.var * (1.0 - abar) / self.marginal_var(abar)))

    def simple_loss(self, abar: float) -> float:
        """E‖ε − E[ε|x_t]‖², summed over pixels: Σ ᾱ var / c_t."""
        return float(np.sum(abar * self.var / self.marginal_var(abar)))

    def reverse_coefficients(self, abar_t: float, abar_s: float) -> tuple[Array, Array]:
        """μ_θ(x_t) = slope·x_t + offset for the optimal denoiser."""
        on_x0, on_x_t, _ = condition(abar_t, abar_s)
        slope, offset = self.x0_coefficients(abar_t)
        return on_x0 * slope + on_x_t, on_x0 * offset

    def optimal_reverse_var(self, abar_t: float, abar_s: float) -> Array:
        """Var[x_s | x_t] per pixel: the σ² that makes the reverse step exact."""
        cross = (abar_t / abar_s) ** 0.5 * self.marginal_var(abar_s)
        return self.marginal_var(abar_s) - cross**2 / self.marginal_var(abar_t)

    def ancestral_moments(self, abars: Sequence[float], variances: Sequence[float]) -> list[tuple[Array, Array]]:
        """(mean, variance) of x at every time reached by Algorithm 2 from N(0, I); the last hop adds no noise."""
        mean, var = np.zeros_like(self.mean), np.ones_like(self.var)
        moments = []
        for hop, (abar_t, abar_s, sigma2) in enumerate(zip(abars[:-1], abars[1:], variances, strict=True)):
            slope, offset = self.reverse_coefficients(abar_t, abar_s)
            last = hop == len(variances) - 1
            mean, var = slope * mean + offset, slope**2 * var + (0.0 if last else sigma2)
            moments.append((mean, var))
        return moments

    def ddim_moments(self, abars: Sequence[float], eta: float) -> list[tuple[Array, Array]]:
        """(mean, variance) of x at every time reached by DDIM (Eq. 12 of Song et al.) from N(0, I)."""
        mean, var = np.zeros_like(self.mean), np.ones_like(self.var)
        moments = []
        for abar_t, abar_s in pairwise(abars):
            sigma2 = eta**2 * condition(abar_t, abar_s)[2]
            (x0_slope, x0_offset), (eps_slope, eps_offset) = self.x0_coefficients(abar_t), self.eps_coefficients(abar_t)
            on_x0, on_eps = abar_s**0.5, max(1.0 - abar_s - sigma2, 0.0) ** 0.5
            slope = on_x0 * x0_slope + on_eps * eps_slope
            mean = slope * mean + on_x0 * x0_offset + on_eps * eps_offset
            var = slope**2 * var + sigma2
            moments.append((mean, var))
        return moments

    def sde_2m_moments(self, abars: Sequence[float]) -> list[tuple[Array, Array]]:
        """(mean, variance) of x at every time reached by SDE-DPM-Solver++(2M) from N(0, I).

        Each step is affine in the pair (x_t, x̂_0 of the hop before), whose 2×2 covariance is carried along. The first
        one draws nothing: x_T's ε stays.
        """
        lams = [0.5 * np.log(abar / (1.0 - abar)) for abar in abars[:-1]]
        zero = np.zeros_like(self.mean)
        mean = np.stack([zero, zero])
        cov = np.stack([np.stack([zero + 1.0, zero]), np.stack([zero, zero])])
        moments = []
        for hop, (abar_t, abar_s) in enumerate(pairwise(abars)):
            on_x0, on_x_t, sigma2 = condition(abar_t, abar_s)
            last = hop == len(abars) - 2
            weight = 0.0
            if hop == 0:
                on_x_t, sigma2 = ((1 - abar_s) / (1 - abar_t)) ** 0.5, 0.0
                on_x0 = abar_s**0.5 - abar_t**0.5 * on_x_t
            if hop > 0 and not last:
                weight = min(0.5, (lams[hop + 1] - lams[hop]) / (lams[hop] - lams[hop - 1]) / 2)
            slope, offset = self.x0_coefficients(abar_t)
            step = np.stack(
                [
                    np.stack([on_x0 * (1 + weight) * slope + on_x_t, zero - on_x0 * weight]),
                    np.stack([slope, zero]),
                ]
            )
            mean = np.einsum("ijp,jp->ip", step, mean) + np.stack([on_x0 * (1 + weight) * offset, offset])
            cov = np.einsum("ijp,jkp,lkp->ilp", step, cov, step)
            cov[0, 0] += 0.0 if last else sigma2
            moments.append((mean[0], cov[0, 0].copy()))
        return moments

    def ddim_map(self, abars: Sequence[float], x_T: Array) -> Array:
        """Where deterministic DDIM takes x_T: a per-image identity, not a moment.

        x0 − mean = Π (√(ᾱ_s ᾱ_t) var + √((1−ᾱ_s)(1−ᾱ_t))) / c_t · (x_T − √ᾱ_T mean).
        """
        deviation = x_T - abars[0] ** 0.5 * self.mean
        for abar_t, abar_s in pairwise(abars):
            overlap = (abar_s * abar_t) ** 0.5 * self.var + ((1.0 - abar_s) * (1.0 - abar_t)) ** 0.5
            deviation = deviation * overlap / self.marginal_var(abar_t)
        return self.mean + deviation

    def kl_term(self, abar_t: float, abar_s: float, sigma2: float) -> float:
        """E KL(q(x_s|x_t,x0) ‖ p(x_s|x_t)) in nats per image, for the optimal mean and one σ² for all pixels.

        D/2 (β̃/σ² − 1 + ln σ²/β̃) + β̃/σ² · ½ (SNR_s − SNR_t) MMSE_t; the bracket is log1p-stable near σ² = β̃.
        """
        tilde = condition(abar_t, abar_s)[2]
        ratio = tilde / sigma2
        delta_snr = abar_s / (1.0 - abar_s) - abar_t / (1.0 - abar_t)
        return len(self.mean) / 2 * (ratio - 1.0 - np.log(ratio)) + ratio * 0.5 * delta_snr * self.mmse(abar_t)

    def prior_kl(self, abar_T: float) -> float:
        """L_T = E KL(q(x_T|x0) ‖ N(0, I)) in nats per image."""
        second_moment = float(np.sum(self.var + self.mean**2))
        dims = len(self.mean)
        return 0.5 * (abar_T * (second_moment - dims) - dims * np.log1p(-abar_T))

    def decoder_density_nats(self, abar_1: float, sigma2: float) -> float:
        """L_0 for a *continuous* decoder N(x0; E[x0|x_1], σ²), nats per image."""
        return len(self.mean) / 2 * np.log(2 * np.pi * sigma2) + self.mmse(abar_1) / (2 * sigma2)

    def entropy(self) -> float:
        """Differential entropy of the data, nats."""
        return 0.5 * float(np.sum(np.log(2 * np.pi * np.e * self.var)))


def corrected_variances(
    var: float, abars: Sequence[float], variances: Sequence[float], alphas: Sequence[float], snr: float, steps: int
) -> list[float]:
    """Variance at every time reached by predictor–corrector sampling of data N(0, var) in infinitely many dimensions.

    Independent noise is then orthogonal to x and ‖z‖²/D = 1, so that a Langevin step of size δ = 2α r²/(‖g‖²/D), where
    g = −x/c has ‖g‖²/D = V/c², takes V to (1 − δ/c)² V + 2δ. ``alphas`` are the α of the times that are reached.
    """
    normal = Gaussian(np.zeros(1), np.array([var]))
    value, reached = 1.0, []
    for hop, (abar_t, abar_s, sigma2) in enumerate(zip(abars[:-1], abars[1:], variances, strict=True)):
        slope = normal.reverse_coefficients(abar_t, abar_s)[0].item()
        value = slope**2 * value
        if hop < len(variances) - 1:
            value += sigma2
            c = normal.marginal_var(abar_s).item()
            for _ in range(steps):
                delta = 2 * alphas[hop] * snr**2 * c**2 / value
                value = (1 - delta / c) ** 2 * value + 2 * delta
        reached.append(value)
    return reached


def sigma_points(dims: int) -> tuple[Array, Array]:
    """A batch of 4·dims pairs (standardised x0, ε) with mean 0 and covariance exactly I over all 2·dims entries.

    The batch mean of any quadratic function of the pair is therefore its Gaussian expectation, without sampling.
    """
    total = 2 * dims
    points = np.concatenate([np.eye(total), -np.eye(total)]) * total**0.5
    return points[:, :dims], points[:, dims:]
