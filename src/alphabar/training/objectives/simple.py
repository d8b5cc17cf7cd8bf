"""The loss of the paper's Algorithm 1."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from alphabar.base.choice import choice
from alphabar.model.denoiser import Estimate
from alphabar.process.chain import Transition
from alphabar.process.equations import simple_loss

__all__ = ["Simple"]


@choice
class Simple:
    """Eq. 14.  ‖ε − ε_θ‖², or the same error of whatever the network predicts; mean over dimensions, [B]."""

    teaches_variance: ClassVar[bool] = False

    def __call__(self, est: Estimate, x0: Tensor, eps: Tensor, tr: Transition) -> Tensor:
        """The loss of each image, unreduced over the batch: [B]."""
        return simple_loss(est.denoiser.prediction.target(x0, eps, tr), est.out)
