"""Published samplers in numpy, each in the form its paper gives it; nothing is imported from the library.

``x0_of(x, abar)`` is the estimate x̂_0; ``abars`` is the sequence of ᾱ at the visited times, noisiest first, data
(ᾱ = 1) last. Every function returns x at each time reached. The hop to ᾱ = 1 replaces x by its estimate unless the
paper's own step has a value there.

DPM-Solver++(2M) and its SDE form: Lu et al. 2022 (arXiv 2211.01095), Algorithm 2 and section 6. Heun: Karras et al.
2022 (arXiv 2206.00364), Algorithm 1. PLMS: Liu et al. 2022 (arXiv 2202.09778), Eqs. 11 and 12. Langevin corrector: Song
et al. 2021 (arXiv 2011.13456), Algorithm 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

Array = np.ndarray
X0 = Callable[[Array, float], Array]


def lam(abar: float) -> float:
    """λ = ln α/σ."""
    return float(0.5 * np.log(abar / (1.0 - abar)))


def _ahead(history: list[tuple[float, Array]], abar_s: float) -> Array:
    """D of Algorithm 2: (1 + 1/2r) x̂_0 − 1/2r x̂_0′, with r no smaller than 1."""
    (abar_u, before), (abar_t, now) = history[-2:]
    r = max((lam(abar_t) - lam(abar_u)) / (lam(abar_s) - lam(abar_t)), 1.0)
    return (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before


def dpmpp_2m(x0_of: X0, abars: Sequence[float], x: Array) -> Iterator[Array]:
    """x_s = σ_s/σ_t x_t − α_s (e^{−h} − 1) D."""
    history: list[tuple[float, Array]] = []
    for abar_t, abar_s in pairwise(abars):
        history.append((abar_t, x0_of(x, abar_t)))
        if abar_s == 1:
            x = history[-1][1]
        else:
            h = lam(abar_s) - lam(abar_t)
            data = history[-1][1] if len(history) == 1 else _ahead(history, abar_s)
            x = ((1 - abar_s) / (1 - abar_t)) ** 0.5 * x - abar_s**0.5 * np.expm1(-h) * data
        yield x


def dpmpp_2m_sde(x0_of: X0, abars: Sequence[float], x: Array, noise: Sequence[Array]) -> Iterator[Array]:
    """x_s = σ_s/σ_t e^{−h} x_t + α_s (1 − e^{−2h}) D + σ_s √(1 − e^{−2h}) z, after a first hop along the flow."""
    history: list[tuple[float, Array]] = []
    queue = iter(noise)
    for abar_t, abar_s in pairwise(abars):
        history.append((abar_t, x0_of(x, abar_t)))
        if abar_s == 1:
            x = history[-1][1]
        elif len(history) == 1:
            eps = (x - abar_t**0.5 * history[0][1]) / (1 - abar_t) ** 0.5
            x = abar_s**0.5 * history[0][1] + (1 - abar_s) ** 0.5 * eps
        else:
            h, sigma = lam(abar_s) - lam(abar_t), (1 - abar_s) ** 0.5
            data, z = _ahead(history, abar_s), next(queue)
            x = sigma / (1 - abar_t) ** 0.5 * np.exp(-h) * x - abar_s**0.5 * np.expm1(-2 * h) * data
            x = x + sigma * (-np.expm1(-2 * h)) ** 0.5 * z
        yield x


def heun(x0_of: X0, abars: Sequence[float], x: Array) -> Iterator[Array]:
    """d = (x̃ − x̂_0)/σ̄ at both ends of a hop in σ̄, averaged; where σ̄ more than halves, the second x̂_0 alone."""
    for abar_t, abar_s in pairwise(abars):
        sigma_t, sigma_s = ((1 - abar_t) / abar_t) ** 0.5, ((1 - abar_s) / abar_s) ** 0.5
        scaled = x / abar_t**0.5
        slope = (scaled - x0_of(x, abar_t)) / sigma_t
        end = scaled + (sigma_s - sigma_t) * slope
        if sigma_s > 0:
            second = x0_of(abar_s**0.5 * end, abar_s)
            if sigma_t > 2 * sigma_s:
                end = second + sigma_s / sigma_t * (scaled - second)
            else:
                end = scaled + (sigma_s - sigma_t) * (slope + (end - second) / sigma_s) / 2
        x = abar_s**0.5 * end
        yield x


def plms(x0_of: X0, abars: Sequence[float], x: Array) -> Iterator[Array]:
    """Eq. 12's ε′ (with Adams and Bashforth's lower rules at the start) in Eq. 11's transfer."""
    rules = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -4 / 3, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    known: list[Array] = []
    for abar_t, abar_s in pairwise(abars):
        known.insert(0, (x - abar_t**0.5 * x0_of(x, abar_t)) / (1 - abar_t) ** 0.5)
        rule = rules[min(len(known), 4)]
        eps = np.sum([weight * known[k] for k, weight in enumerate(rule)], axis=0)
        below = abar_t**0.5 * (((1 - abar_s) * abar_t) ** 0.5 + ((1 - abar_t) * abar_s) ** 0.5)
        x = (abar_s / abar_t) ** 0.5 * x - (abar_s - abar_t) / below * eps
        yield x


def langevin(score: Array, x: Array, z: Array, snr: float, alpha: float) -> Array:
    """x + ε g + √(2ε) z with ε = 2 α (r ‖z‖/‖g‖)², for one image."""
    step = 2 * alpha * (snr * np.linalg.norm(z) / np.linalg.norm(score)) ** 2
    return x + step * score + (2 * step) ** 0.5 * z
