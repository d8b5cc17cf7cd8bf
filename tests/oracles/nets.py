"""Oracles as networks: callables (x_t [B,C,H,W], index = t − 1 [B]) -> output, in torch, computed by numpy oracles.

Only the calling convention of a network is assumed; nothing is imported from the library.  A call records the indices
it was given, so that a test can assert which t the network saw.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oracles.discrete import Atoms
from oracles.gaussian import Gaussian, condition


class ExactNet(torch.nn.Module):
    """The optimal network for Gaussian or atomic data, in any parametrisation.

    ``target`` is "eps", "x0", "v", "score" or "mean"; "mean" needs ``earlier``, a map from t to the s it will hop to.
    """

    def __init__(
        self, data: Gaussian | Atoms, alpha_bar: Tensor, target: str = "eps", earlier: dict[int, int] | None = None
    ) -> None:
        super().__init__()
        self.data, self.target, self.earlier = data, target, earlier
        self.abar = [float(a) for a in alpha_bar]
        self.seen: list[list[int]] = []

    def _x0(self, x_t: np.ndarray, abar: float) -> np.ndarray:
        if isinstance(self.data, Atoms):
            return self.data.x0_star(x_t, abar)
        slope, offset = self.data.x0_coefficients(abar)
        return slope * x_t + offset

    def _output(self, x_t: np.ndarray, t: int) -> np.ndarray:
        abar = self.abar[t]
        if self.target == "eps" and isinstance(self.data, Gaussian):
            slope, offset = self.data.eps_coefficients(abar)
            return slope * x_t + offset
        x0 = self._x0(x_t, abar)
        eps = (x_t - abar**0.5 * x0) / (1.0 - abar) ** 0.5
        if self.target == "mean":
            on_x0, on_x_t, _ = condition(abar, self.abar[self.earlier[t] if self.earlier else t - 1])
            return on_x0 * x0 + on_x_t * x_t
        return {
            "eps": eps,
            "x0": x0,
            "v": abar**0.5 * eps - (1.0 - abar) ** 0.5 * x0,
            "score": -eps / (1.0 - abar) ** 0.5,
        }[self.target]

    def forward(self, x_t: Tensor, index: Tensor) -> Tensor:
        """The exact output; rows may carry different indices."""
        index = index.tolist()
        self.seen.append(index)
        flat = x_t.detach().cpu().double().reshape(len(x_t), -1).numpy()
        if len(set(index)) == 1:
            out = self._output(flat, index[0] + 1)
        else:
            out = np.concatenate([self._output(row[None], i + 1) for row, i in zip(flat, index, strict=True)])
        return torch.from_numpy(out).to(x_t.dtype).reshape(x_t.shape)
