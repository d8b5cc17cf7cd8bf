"""What the tests of operators in two forms share: torch's and our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from alphabar.model.nn import UNet


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads inside, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network() -> UNet:
    """A small one, with channels innermost."""
    torch.manual_seed(0)
    net = UNet(1, 1, 1, 16, (1, 2), (False, False), 0.0, norm_groups=4, total_time_steps=None, small_init=False)
    return net.to(memory_format=torch.channels_last)


def computed(net: UNet) -> Tensor:
    """What it makes of some images, and their gradients in its parameters."""
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    out: Tensor = net(x, torch.tensor([3, 700]))
    out.square().sum().backward()
    return out


def assert_the_same(ours: Tensor, net: UNet, theirs: Tensor, twin: UNet) -> None:
    """Outputs and every gradient, to rounding in float32."""
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        assert (mine.grad - other.grad).norm() <= 1e-4 * other.grad.norm() + 1e-5
