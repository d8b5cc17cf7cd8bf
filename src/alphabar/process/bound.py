"""Eq. 5, one hop at a time: the terms L_{t−1} and L_0 of the variational bound."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.base.tensors import Coef, log, sum_per_image
from alphabar.process import equations as eq
from alphabar.process.chain import Transition

__all__ = ["hop_nats"]


def hop_nats(x0: Tensor, x_t: Tensor, x0_hat: Tensor, log_var: Coef | Tensor, tr: Transition) -> Tensor:
    """Eq. 5, L_{t−1} and L_0.  KL( q(x_s|x_t,x_0) ‖ p_θ(x_s|x_t) ), or −ln p_θ(x_0|x_t) where s = 0; nats [B].

    p_θ has the mean μ̃(x_t, x̂_0). Images are [B, C, H, W]; ``log_var`` is a float, [B] or [B, C, H, W]; the result is
    float64, because the two means differ by less than float32 resolves at the noisy end.
    """
    if isinstance(tr.s, int):
        return (_decoder_nats if tr.s == 0 else _kl_nats)(x0, x_t, x0_hat, log_var, tr)
    nats = torch.empty(len(x0), dtype=torch.float64, device=x0.device)
    for rows, term in ((tr.s == 0, _decoder_nats), (tr.s != 0, _kl_nats)):
        if rows.any():
            here = rows.to(x0.device)
            hops = tr.rows(rows)
            some = log_var[rows.to(log_var.device)] if isinstance(log_var, Tensor) else log_var
            nats[here] = term(x0[here], x_t[here], x0_hat[here], some, hops)
    return nats


def _kl_nats(x0: Tensor, x_t: Tensor, x0_hat: Tensor, log_var: Coef | Tensor, tr: Transition) -> Tensor:
    x_t = x_t.double()
    mu_tilde = eq.posterior(x0.double(), x_t, tr.abar_t, tr.abar_s)
    mean = eq.posterior(x0_hat.double(), x_t, tr.abar_t, tr.abar_s)
    log_beta_tilde = log(eq.beta_tilde(tr.abar_t, tr.abar_s))
    return sum_per_image(eq.kl_normal(mu_tilde, log_beta_tilde, mean, log_var))


def _decoder_nats(x0: Tensor, x_t: Tensor, x0_hat: Tensor, log_var: Coef | Tensor, tr: Transition) -> Tensor:
    # at s = 0 the mean of Eq. 7 is x̂_0 itself
    return -sum_per_image(eq.decoder_log_prob(x0, x0_hat, log_var))
