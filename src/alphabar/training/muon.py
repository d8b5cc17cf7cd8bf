"""Muon: the momentum's nearest orthogonal matrix as the step, by which a run gets further in as many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

__all__ = ["Muon", "is_matrix", "orthogonal"]

MOMENTUM = 0.95
ROOT_MEAN_SQUARE = 0.2
FEWEST = 16  # rows and columns below which a matrix is left to AdamW

ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight, as output channels × all else, has at least 16 rows and columns."""
    return weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= FEWEST


def orthogonal(matrix: Tensor) -> Tensor:
    """U Vᵀ of ``matrix`` = U S Vᵀ [m, n], but for singular values that are near 1 and not equal to it (0.7 … 1.2).

    Five iterations X ← aX + b(XXᵀ)X + c(XXᵀ)²X of Jordan et al. (2024). They only ever multiply X from the left by
    polynomials of its first XXᵀ, so that the smaller side's square matrix is all that the iterations work on.
    """
    a, b, c = QUINTIC
    tall = len(matrix) > matrix.shape[1]
    wide: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    gram = wide @ wide.T
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(ITERATIONS):
        step = torch.addmm(b * gram, gram, gram, alpha=c)
        step.diagonal().add_(a)
        product = step @ product
        gram = step @ gram @ step
    near = product @ wide
    return near.T if tall else near


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for the groups that say ``orthogonal=True``, AdamW for the others.

    With momentum B ← μB + (1 − μ)G of the gradient G, μ = 0.95, a weight moves by lr · 0.2 √max(m, n) · UVᵀ, where
    USVᵀ = μB + (1 − μ)G. The factor gives the step the root mean square that AdamW's have (Liu et al. 2025, Eq. 4), so
    that one rate serves both. Weight decay is AdamW's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {}
        for group in self.param_groups:
            if not group.get("orthogonal"):
                continue
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"], group["weight_decay"])
                    gradients[weight], weight.grad = weight.grad, None
        super().step()
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = torch.lerp(gradient, momentum, MOMENTUM)
        matrix = ahead.reshape(len(ahead), -1)
        step = orthogonal(matrix).reshape(ahead.shape)
        weight.mul_(1 - lr * weight_decay).add_(step, alpha=-lr * ROOT_MEAN_SQUARE * max(matrix.shape) ** 0.5)
