"""Numbers published or derived elsewhere, with their sources.

``LINEAR_*``, ``COSINE_*``, ``EQ12_WEIGHT``: float64 re-derivations listed in the project's peers notes, section 2.2,
for the paper's schedules (Ho et al. 2020, section 4; Nichol & Dhariwal 2021, section 3.2).
``DIFFUSERS_*``: expected values of the scheduler tests of Hugging Face diffusers
(tests/schedulers/test_scheduler_{ddpm,ddim,unclip}.py, Apache-2.0), collected in the peers notes, section 3.1.
"""

from __future__ import annotations

# Linear 1e-4 … 0.02, T = 1000: t -> ᾱ_t.
LINEAR_ABAR = {
    100: 0.897018145675,
    250: 0.524085373825,
    500: 0.0785872428818,
    750: 0.00335055043894,
    1000: 4.0358297653756754e-05,
}
LINEAR_BETA_TILDE_2 = 5.45318766e-05
LINEAR_LOG_BETA_TILDE_2 = -9.81672513529567

# Eq. 12's weight β²/(2σ²α(1−ᾱ)) with σ² = β, same schedule: t -> weight.
EQ12_WEIGHT = {
    1: 0.50005,
    2: 0.272692,
    10: 0.073717,
    100: 0.0100813,
    250: 0.00534318,
    500: 0.00550343,
    750: 0.00765016,
    1000: 0.0102045,
}

# L_T of the same schedule in bits/dim: E[x0²] -> value.
LINEAR_PRIOR_BITS_PER_DIM = {0.25: 7.28e-6, 0.3: 8.7e-6}

# Cosine, s = 0.008, β ≤ 0.999.
COSINE_1000 = {"beta_1": 4.12842248e-05, "beta_T": 0.999, "abar_500": 0.49384359, "abar_T": 2.42877e-09}
COSINE_4000 = {"beta_1": 9.86581881e-06, "abar_T": 1.51798e-10}

# diffusers DDPM ``_get_variance`` (fixed_small, linear): 0-based t -> σ², tolerance 1e-5.
DIFFUSERS_DDPM_VARIANCE = {0: 0.0, 487: 0.00979, 999: 0.02}
# diffusers DDIM ``_get_variance``: (0-based t, 0-based previous t) -> σ² at η = 1, tolerance 1e-5.
DIFFUSERS_DDIM_VARIANCE = {(420, 400): 0.14771, (980, 960): 0.32460, (487, 486): 0.00979, (999, 998): 0.02}
# diffusers UnCLIP, learned_range on the cosine schedule, network value 0.5: 0-based t -> ln σ², tolerance 1e-5.
DIFFUSERS_LEARNED_RANGE = {1: -10.1712790, 487: -5.7998052, 999: -0.0010011}

# Full loops on the dummy model x·t/(t+1): case -> (sum |x|, mean |x|); tolerances 1e-2 and 1e-3.
DIFFUSERS_DDPM_LOOP = {"eps": (258.9606, 0.3372), "v": (202.0296, 0.2631), "eps_with_noise": (387.9466, 0.5051)}
DIFFUSERS_DDIM_LOOP = {
    "eps": (172.0067, 0.223967),
    "v": (52.5302, 0.0684),
    "eps_beta_start_01": (149.8295, 0.1951),
    "eps_beta_start_01_alpha_not_one": (149.0784, 0.1941),
    "eps_with_noise": (354.5418, 0.4616),
}
