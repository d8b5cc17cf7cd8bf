"""Where kernels of our own stand in for torch's, and where they would be seen or computed with wrongly."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.model.nn import UNet
from alphabar.model.nn.plain import plain


def test_float32_images_on_a_cpu_with_channels_innermost() -> None:
    x, weight = torch.empty(2, 16, 4, 4).to(memory_format=torch.channels_last), torch.empty(16)
    assert plain(x) and plain(x, weight)
    assert not plain(x.contiguous())
    assert not plain(x.double())
    assert not plain(x.to("meta"))
    assert not plain(x, weight.double())
    assert not plain(x, weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not plain(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # by torch itself
def test_where_operators_are_looked_into() -> None:
    x = torch.empty(2, 16, 4, 4).to(memory_format=torch.channels_last)
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(plain(x))
        return 2 * x

    with FlopCounterMode(display=False):
        look(x)
    torch.func.vmap(look)(x[None])
    torch.func.jvp(look, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        look(torch.autograd.forward_ad.make_dual(x, x))
    torch.compile(look, backend="eager", fullgraph=False)(x)
    with torch._subclasses.FakeTensorMode() as mode:
        look(mode.from_tensor(x))
    assert seen and not any(seen)
    look(x)
    assert seen[-1]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_network_holds_operators_and_not_their_results() -> None:
    torch.manual_seed(0)
    net = UNet(1, 1, 1, 16, (1, 2), (False, False), 0.0, norm_groups=4).eval().to(memory_format=torch.channels_last)
    one, two = (torch.randn(2, 1, 16, 16).to(memory_format=torch.channels_last) for _ in range(2))
    t = torch.tensor([3, 5])
    traced = torch.jit.trace(net, (one, t), check_trace=False)
    with torch.no_grad():
        assert torch.allclose(traced(two, t), net(two, t), atol=1e-4)
