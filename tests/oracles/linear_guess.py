"""The bound, in closed form, of a model that guesses x̂_0 = 0 or x̂_0 = √ᾱ x_t, with σ² = β̃, averaged over the noise."""

from __future__ import annotations

import numpy as np

from oracles import decoder
from oracles.discrete import NORMAL_NODES, NORMAL_WEIGHTS


def bits_per_dim(x0: np.ndarray, alpha_bar: np.ndarray, *, slope: bool) -> dict[str, float]:
    """L_T, Σ L_{t−1}, L_0 and their sum in bits per dimension, for pixels ``x0`` and ᾱ_0 … ᾱ_T.

    ``slope`` chooses the guess √ᾱ x_t, which is the best one for data of N(0, 1).
    """
    squares = float((x0**2).mean())
    T = len(alpha_bar) - 1
    prior = 0.5 * (alpha_bar[T] * squares - alpha_bar[T] - np.log1p(-alpha_bar[T]))
    terms, floor = 0.0, 0.0
    for t in range(2, T + 1):
        a_t, a_s = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - a_t / a_s
        beta_tilde = (1 - a_s) / (1 - a_t) * beta
        error = (1 - a_t) ** 2 * squares + a_t * (1 - a_t) if slope else squares
        terms += a_s * beta**2 / (1 - a_t) ** 2 * error / (2 * beta_tilde)
        floor = beta_tilde if t == 2 else floor
    levels, counts = np.unique(x0, return_counts=True)
    a_1 = alpha_bar[1]
    decoding = 0.0
    for level, count in zip(levels, counts, strict=True):
        guesses = a_1 * level + (a_1 * (1 - a_1)) ** 0.5 * NORMAL_NODES if slope else np.zeros(1)
        weights = NORMAL_WEIGHTS if slope else np.ones(1)
        log_p = decoder.log_prob(np.full(len(guesses), level), guesses, np.log(floor))
        decoding -= count / x0.size * float(weights @ log_p)
    bits = {"prior": prior, "terms": terms, "decoder": decoding}
    found = {f"{name}_bits_per_dim": float(value / np.log(2)) for name, value in bits.items()}
    return {**found, "bits_per_dim": sum(found.values())}
