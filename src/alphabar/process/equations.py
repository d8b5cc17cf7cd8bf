"""Ho, Jain and Abbeel (2020) as code, in the paper's order.

Every function is a formula: tensors in, tensors out, no state, no randomness, no network. Times never appear, only
the values ᾱ_t (``abar_t``) and ᾱ_s (``abar_s``) of two times t > s ≥ 0; the paper's own case is s = t − 1, and
ᾱ_0 = 1. A coefficient is a python float or a float64 tensor [B] (``Coef``); images are [B, C, H, W] in any floating
dtype, and float64 in gives float64 out. Within a docstring α = ᾱ_t/ᾱ_s and β = 1 − α.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alphabar.base.tensors import Coef, log, mean_per_image, scale, sqrt, to_image

__all__ = [
    "beta",
    "beta_tilde",
    "bound_weight",
    "decoder_log_prob",
    "eps_from_score",
    "eps_from_v",
    "eps_from_x0",
    "flow",
    "half_log_snr",
    "kl_normal",
    "mean_from_eps",
    "mean_weight",
    "posterior",
    "prior_kl",
    "q_sample",
    "q_step",
    "score_from_eps",
    "simple_loss",
    "snr",
    "transfer",
    "v_from",
    "x0_from_eps",
    "x0_from_mean",
    "x0_from_v",
]


def beta(abar_t: Coef, abar_s: Coef) -> Coef:
    """Eq. 2 (variance).  β = 1 − ᾱ_t/ᾱ_s, the variance that the forward process adds between s and t."""
    return (abar_s - abar_t) / abar_s


def q_step(x_s: Tensor, eps: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """Eq. 2.  x_t = √(1−β) x_s + √β ε, a draw from q(x_t | x_s)."""
    return scale(x_s, sqrt(abar_t / abar_s)) + scale(eps, sqrt(beta(abar_t, abar_s)))


def q_sample(x0: Tensor, eps: Tensor, abar_t: Coef) -> Tensor:
    """Eq. 4.  x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, a draw from q(x_t | x_0)."""
    return scale(x0, sqrt(abar_t)) + scale(eps, sqrt(1 - abar_t))


def snr(abar_t: Coef) -> Coef:
    """Eq. 4 (signal-to-noise ratio).  SNR_t = ᾱ_t/(1−ᾱ_t)."""
    return abar_t / (1 - abar_t)


def half_log_snr(abar_t: Coef) -> Coef:
    """Eq. 4 (half log signal-to-noise ratio).  λ_t = ½ ln(ᾱ_t/(1−ᾱ_t)); −∞ where ᾱ_t = 0, ∞ where ᾱ_t = 1."""
    return (log(abar_t) - log(1 - abar_t)) / 2


def prior_kl(x0: Tensor, abar_T: Coef) -> Tensor:
    """Eq. 5, L_T.  KL( q(x_T|x_0) ‖ N(0, I) ) = ½ (ᾱ_T x_0² − ᾱ_T − ln(1−ᾱ_T)), in nats, elementwise [B, C, H, W]."""
    log_var = torch.log1p(-abar_T) if isinstance(abar_T, Tensor) else math.log1p(-abar_T)
    return (scale(x0.square(), abar_T) - to_image(abar_T, x0) - to_image(log_var, x0)) / 2


def kl_normal(mean1: Tensor, log_var1: Coef | Tensor, mean2: Tensor, log_var2: Coef | Tensor) -> Tensor:
    """Eq. 5, L_{t−1}.  KL( N(μ₁, σ₁²) ‖ N(μ₂, σ₂²) ) = ½ (ln σ₂²/σ₁² + σ₁²/σ₂² − 1 + (μ₁−μ₂)²/σ₂²), in nats.

    Elementwise [B, C, H, W]. A log-variance is a float, one number per image [B], or one per pixel [B, C, H, W].
    """
    log_var1, log_var2 = _per_pixel(log_var1, mean1), _per_pixel(log_var2, mean1)
    log_ratio = log_var1 - log_var2
    # expm1 keeps σ₁²/σ₂² − 1 − ln(σ₁²/σ₂²) exact where the two variances are nearly equal
    return (torch.expm1(log_ratio) - log_ratio + (mean1 - mean2).square() * torch.exp(-log_var2)) / 2


def _per_pixel(log_var: Coef | Tensor, x: Tensor) -> Tensor:
    """A log-variance as a tensor that broadcasts against the images ``x``."""
    if not isinstance(log_var, Tensor):
        return torch.full((1,) * x.ndim, log_var, dtype=x.dtype, device=x.device)
    if log_var.ndim == x.ndim:
        return log_var
    image = to_image(log_var, x)
    assert isinstance(image, Tensor)
    return image


def posterior(x0: Tensor, x_t: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """Eqs. 6–7 (mean).  μ̃ = √ᾱ_s β/(1−ᾱ_t) x_0 + √α (1−ᾱ_s)/(1−ᾱ_t) x_t, the mean of q(x_s | x_t, x_0)."""
    c_0 = sqrt(abar_s) * beta(abar_t, abar_s) / (1 - abar_t)
    c_t = sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
    return scale(x0, c_0) + scale(x_t, c_t)


def beta_tilde(abar_t: Coef, abar_s: Coef) -> Coef:
    """Eqs. 6–7 (variance).  β̃ = (1−ᾱ_s)/(1−ᾱ_t) β, the variance of q(x_s | x_t, x_0); 0 when s = 0."""
    return (1 - abar_s) / (1 - abar_t) * beta(abar_t, abar_s)


def mean_weight(log_var: Coef) -> Coef:
    """Eqs. 8 and 10 (weight).  1/(2σ²), the factor of ‖μ̃ − μ_θ‖² in L_{t−1}."""
    return (-log_var).exp() / 2 if isinstance(log_var, Tensor) else math.exp(-log_var) / 2


def x0_from_mean(mean: Tensor, x_t: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """Eqs. 6–7 solved for x_0.  x_0 = (μ̃ − √α (1−ᾱ_s)/(1−ᾱ_t) x_t) · (1−ᾱ_t)/(√ᾱ_s β)."""
    c_0 = sqrt(abar_s) * beta(abar_t, abar_s) / (1 - abar_t)
    c_t = sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
    return scale(mean - scale(x_t, c_t), 1 / c_0)


def x0_from_eps(x_t: Tensor, eps: Tensor, abar_t: Coef) -> Tensor:
    """Eqs. 9 and 15.  x̂_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t."""
    return scale(x_t - scale(eps, sqrt(1 - abar_t)), 1 / sqrt(abar_t))


def eps_from_x0(x_t: Tensor, x0: Tensor, abar_t: Coef) -> Tensor:
    """Eq. 9 solved for ε.  ε = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t)."""
    return scale(x_t - scale(x0, sqrt(abar_t)), 1 / sqrt(1 - abar_t))


def mean_from_eps(x_t: Tensor, eps: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """Eq. 11.  μ_θ = (x_t − β/√(1−ᾱ_t) ε)/√α."""
    return scale(x_t - scale(eps, beta(abar_t, abar_s) / sqrt(1 - abar_t)), 1 / sqrt(abar_t / abar_s))


def bound_weight(abar_t: Coef, abar_s: Coef, log_var: Coef) -> Coef:
    """Eq. 12 (weight).  β²/(2σ² α (1−ᾱ_t)), the factor of ‖ε − ε_θ‖² in L_{t−1}; Eq. 14 replaces it by 1."""
    return mean_weight(log_var) * beta(abar_t, abar_s) ** 2 / (abar_t / abar_s * (1 - abar_t))


def decoder_log_prob(x0: Tensor, mean: Tensor, log_var: Coef | Tensor) -> Tensor:
    """Eq. 13.  ln ∫_{δ₋(x)}^{δ₊(x)} N(x; μ, σ²) dx with δ± = x ± 1/255 and open ends at x = ±1, in nats.

    The probability of each 8-bit level of ``x0`` [B, C, H, W] (values 2k/255 − 1), elementwise and always in float64.
    Differences of the Gaussian CDF are taken in log space on the side where they do not cancel; where a bin is a
    thousandth of σ or less, from the midpoint rule with its fourth-order correction. Exact for σ from 1e-10 to 1e6.
    """
    x0, mean = x0.double(), mean.double()
    log_sigma = _per_pixel(log_var, mean).double() / 2
    upper = (x0 + 1 / 255 - mean) * torch.exp(-log_sigma)
    lower = (x0 - 1 / 255 - mean) * torch.exp(-log_sigma)

    # the CDF is flat on the right: mirror the bins of the right half so that both ends lie on the left
    mirrored = lower + upper > 0
    high = torch.where(mirrored, -lower, upper)
    low = torch.where(mirrored, -upper, lower)
    log_width = math.log(2 / 255) - log_sigma
    width = torch.exp(log_width)
    middle = (high + low) / 2
    narrow = (width < 1e-3) & ((middle * width).abs() < 1e-2)

    # torch.where differentiates both branches: each gets harmless arguments where it is not chosen
    log_high = _log_ndtr(high)
    log_low = _log_ndtr(torch.where(narrow, high - 1, low))
    wide_bin = log_high + torch.log(-torch.expm1(log_low - log_high))

    m, w2 = torch.where(narrow, middle, 0.0), torch.where(narrow, width, 0.0).square()
    correction = (m**2 - 1) * w2 / 24 + (m**4 - 6 * m**2 + 3) * w2**2 / 1920
    narrow_bin = -(m**2 + math.log(2 * math.pi)) / 2 + log_width + torch.log1p(correction)

    log_prob = torch.where(narrow, narrow_bin, wide_bin)
    log_prob = torch.where(x0 < -1 + 1 / 255, _log_ndtr(upper), log_prob)
    return torch.where(x0 > 1 - 1 / 255, _log_ndtr(-lower), log_prob)


def _log_ndtr(z: Tensor) -> Tensor:
    """ln Φ(z). torch has it too, but its derivative is wrong below −1e9 and infinite below −1e10."""
    left, right = z.clamp(max=-1), z.clamp(min=-1)
    far = torch.log(torch.special.erfcx(-left / math.sqrt(2)) / 2) - left.square() / 2
    return torch.where(z < -1, far, torch.log1p(-torch.special.erfc(right / math.sqrt(2)) / 2))


def simple_loss(eps: Tensor, eps_hat: Tensor) -> Tensor:
    """Eq. 14.  L_simple = ‖ε − ε_θ‖², as the mean over dimensions: [B, C, H, W] → [B]."""
    return mean_per_image((eps - eps_hat).square())


def v_from(x0: Tensor, eps: Tensor, abar_t: Coef) -> Tensor:
    """Salimans and Ho (2022).  v = √ᾱ_t ε − √(1−ᾱ_t) x_0."""
    return scale(eps, sqrt(abar_t)) - scale(x0, sqrt(1 - abar_t))


def x0_from_v(x_t: Tensor, v: Tensor, abar_t: Coef) -> Tensor:
    """Salimans and Ho (2022).  x_0 = √ᾱ_t x_t − √(1−ᾱ_t) v."""
    return scale(x_t, sqrt(abar_t)) - scale(v, sqrt(1 - abar_t))


def eps_from_v(x_t: Tensor, v: Tensor, abar_t: Coef) -> Tensor:
    """Salimans and Ho (2022).  ε = √(1−ᾱ_t) x_t + √ᾱ_t v."""
    return scale(x_t, sqrt(1 - abar_t)) + scale(v, sqrt(abar_t))


def score_from_eps(eps: Tensor, abar_t: Coef) -> Tensor:
    """Section 3.2 (Langevin reading of Eq. 11).  ∇ ln q(x_t) = −ε/√(1−ᾱ_t)."""
    return scale(eps, -1 / sqrt(1 - abar_t))


def eps_from_score(score: Tensor, abar_t: Coef) -> Tensor:
    """Section 3.2 (Langevin reading of Eq. 11), solved for ε.  ε = −√(1−ᾱ_t) ∇ ln q(x_t)."""
    return scale(score, -sqrt(1 - abar_t))


def flow(x0: Tensor, x_t: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """DDIM, Eq. 12 (with σ = 0).  x_s = √ᾱ_s x_0 + √(1−ᾱ_s) ε with the ε of x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε.

    What :func:`posterior` is without noise: x_t moves with x_0 and ε held. ε is not formed: √(1−ᾱ_s)/√(1−ᾱ_t) ≤ 1.
    """
    c_t = sqrt((1 - abar_s) / (1 - abar_t))
    return scale(x0, sqrt(abar_s) - sqrt(abar_t) * c_t) + scale(x_t, c_t)


def transfer(x_t: Tensor, eps: Tensor, abar_t: Coef, abar_s: Coef) -> Tensor:
    """DDIM, Eq. 13 (one step).  x_s = √(ᾱ_s/ᾱ_t) x_t + (√(1−ᾱ_s) − √(1−ᾱ_t) √(ᾱ_s/ᾱ_t)) ε, up or down in time.

    ε need not belong to x_t. ᾱ_t must not be 0.
    """
    c_t = sqrt(abar_s / abar_t)
    return scale(x_t, c_t) + scale(eps, sqrt(1 - abar_s) - sqrt(1 - abar_t) * c_t)
