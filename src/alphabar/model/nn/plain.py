"""Where kernels of our own may stand in for torch's: what they work on, and that nobody watches the operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["plain", "unwatched"]


def plain(x: Tensor, *others: Tensor) -> bool:
    """Whether ``x`` [B, C, H, W] is float32 on a CPU, channels innermost, ``others`` alike, and nobody looks inside.

    ``torch.compile``, tracing, ``torch.func``, forward-mode differentiation and the modes that count or record
    operators need to see torch's own; so does autocast, to choose their precision.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and all(other.dtype == x.dtype and other.device == x.device for other in others)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def unwatched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` is a ``kind`` itself, with no hook that would miss its being called."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module) is kind and not any(hooks)
