"""Where kernels of our own may stand in for torch's: what they work on, and that nobody watches the operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["plain", "unwatched"]


def plain(x: Tensor, *others: Tensor) -> bool:
    """Whether ``x`` [B, C, H, W] is float32 on a CPU, channels innermost, ``others`` alike, and nobody looks inside.

    ``torch.compile``, tracing, ``torch.func``, forward-mode differentiation and the modes that count or record
    operators need to see torch's own; so does autocast, to choose their precision. Of an empty ``x`` there is nothing
    to compute, and torch knows what is an error.
    """
    tensors = (x, *others)
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and not any(tensor.is_neg() for tensor in tensors)
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def unwatched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module`` is a ``kind`` itself, and nobody waits for it to be called or does something else then."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    watched = any(hooks) or nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return type(module) is kind and not watched and "forward" not in vars(module)
