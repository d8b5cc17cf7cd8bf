"""Muon: the momentum's nearest orthogonal matrix as the step, by which a run gets further in as many steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """U Vᵀ of each matrix U S Vᵀ [m, n], but for singular values that are near 1 and not equal to it (0.7 … 1.2).

    Five iterations X ← aX + b(XXᵀ)X + c(XXᵀ)²X of Jordan et al. (2024). They only ever multiply X from the left by
    polynomials of its first XXᵀ. So the iterations work on square matrices of the smaller side, and all that have the
    same go together.
    """
    wide = [(x.T if len(x) > x.shape[1] else x) / (x.norm() + 1e-7) for x in matrices]
    near: list[Tensor] = [*wide]
    for side in {len(x) for x in wide}:
        places = [i for i, x in enumerate(wide) if len(x) == side]
        polynomials = _polynomials(torch.stack([wide[i] @ wide[i].T for i in places]))
        for i, polynomial in zip(places, polynomials, strict=True):
            near[i] = polynomial @ wide[i]
    return [y if y.shape == x.shape else y.T for x, y in zip(matrices, near, strict=True)]


def _polynomials(gram: Tensor) -> Tensor:
    """What the iterations multiply each X by, given its XXᵀ [K, m, m]."""
    a, b, c = QUINTIC
    product: Tensor | None = None
    for left in reversed(range(ITERATIONS)):
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=1, dim2=2).add_(a)
        product = step if product is None else torch.bmm(step, product)
        if left:
            gram = torch.bmm(torch.bmm(step, gram), step)
    assert product is not None
    return product


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
        moved: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            if group.get("orthogonal"):
                gradients = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
                self._move(gradients, group["lr"], group["weight_decay"])
                moved |= gradients
        for weight in moved:
            weight.grad = None
        super().step()
        for weight, gradient in moved.items():
            weight.grad = gradient
        return loss

    def _move(self, gradients: dict[Tensor, Tensor], lr: float, weight_decay: float) -> None:
        if not gradients:
            return
        for weight in gradients:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta, given = [self.state[weight]["momentum"] for weight in gradients], list(gradients.values())
        torch._foreach_lerp_(momenta, given, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(given, momenta, MOMENTUM)
        # the channels innermost, as they lie in memory: the order of columns makes no difference but that of a copy
        steps = orthogonal([matrix.movedim(1, -1).flatten(1) for matrix in ahead])
        if weight_decay:
            torch._foreach_mul_(list(gradients), 1 - lr * weight_decay)
        for weight, step in zip(gradients, steps, strict=True):
            size = ROOT_MEAN_SQUARE * max(step.shape) ** 0.5
            inner = weight.movedim(1, -1)
            inner.add_(step.reshape(inner.shape), alpha=-lr * size)
