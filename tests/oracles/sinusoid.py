"""Transformer positions as DDPM uses them: [sin | cos], frequencies 10000^(−i/(half−1)).

Source: Ho et al.'s released ``nn.get_timestep_embedding``; the 3×3 slice below is from diffusers
tests/models/test_layers_utils.py (Apache-2.0), "downscale_freq_shift=1, flip_sin_to_cos=False".
"""

from __future__ import annotations

import math

import numpy as np

# Rows t = 23, 24, 25 and columns 47, 48, 49 of the 64-wide embedding of t = 0…127 (diffusers, Apache-2.0), 4 digits.
DIFFUSERS_SLICE = (
    (0.9646, 0.9804, 0.9892),
    (0.9615, 0.9787, 0.9882),
    (0.9582, 0.9769, 0.9872),
)


def sinusoid(t: np.ndarray, dim: int) -> np.ndarray:
    """Embedding [len(t), dim], element by element with ``math`` rather than broadcasting."""
    half = dim // 2
    frequencies = [10000.0 ** (-i / (half - 1)) for i in range(half)]
    rows = [[math.sin(float(x) * f) for f in frequencies] + [math.cos(float(x) * f) for f in frequencies] for x in t]
    return np.array(rows)
