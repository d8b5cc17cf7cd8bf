"""3×3 convolutions by Winograd: the same function as the direct form, with its gradients, chosen where it pays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

import forms
from alphabar.model.nn import winograd
from alphabar.model.nn.winograd import Conv3x3, pays, winograd_conv

compiled = pytest.mark.skipif(winograd.winograd() is None, reason="there is no C compiler")


def wide(side: int = 32, channels: int = 256, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images as the network has them, channels innermost, a kernel and a bias: no memory is touched."""
    images = torch.empty(batch, channels, side, side).to(memory_format=torch.channels_last)
    return images, torch.empty(channels, channels, 3, 3), torch.empty(channels)


def on_avx2(monkeypatch: pytest.MonkeyPatch, capability: str = "AVX2") -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "winograd", lambda: None)


def gradients(conv, inputs, g):
    out = conv(*inputs)
    return [out, *torch.autograd.grad(out, inputs, g.to(out.dtype))]


@compiled
# sides that tiles of four fill and do not fill, one tile, several, more than are worked on at once, one position
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 5), (4, 12), (1, 1), (6, 3), (33, 18)])
# fewer channels than are worked on at once, as many, and some more, one of two or both halves of a panel
@pytest.mark.parametrize(("channels", "out_channels"), [(5, 3), (16, 32), (1, 17), (40, 16), (23, 8)])
@pytest.mark.parametrize("threads", [1, 4])
def test_values_and_gradients_are_those_of_the_direct_form(
    height: int, width: int, channels: int, out_channels: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(height * width + channels)
    shapes = (3, channels, height, width), (out_channels, channels, 3, 3), (out_channels,)
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    g = torch.randn(3, out_channels, height, width, generator=generator)
    exact = gradients(lambda *given: functional.conv2d(*given, padding=1), [tensor.double() for tensor in inputs], g)
    with forms.threads(threads):
        ours = gradients(winograd_conv, inputs, g)
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@compiled
def test_the_number_of_threads_and_of_images_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 24, 19, 16, generator=generator).requires_grad_()
    weight = torch.randn(40, 24, 3, 3, generator=generator).requires_grad_()
    bias, g = torch.zeros(40, requires_grad=True), torch.randn(5, 40, 19, 16, generator=generator)
    found = []
    for threads in (1, 2, 7):
        with forms.threads(threads):
            found.append(gradients(winograd_conv, (x, weight, bias), g))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
    assert torch.equal(winograd_conv(x[2:3], weight, bias), found[0][0][2:3])


@compiled
@pytest.mark.parametrize("innermost", [True, False])
def test_values_and_gradients_in_float32(innermost: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 20, 9, 14), (24, 20, 3, 3), (24,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    if innermost:
        x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    exact = functional.conv2d(*(tensor.double() for tensor in inputs), padding=1)
    ours = winograd_conv(*inputs)
    assert torch.allclose(ours, exact.float(), rtol=0, atol=1e-5 * exact.abs().max().item())
    g = torch.randn(exact.shape, generator=generator)
    gradients = torch.autograd.grad(ours, inputs, g), torch.autograd.grad(exact, inputs, g.double())
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs.float(), rtol=0, atol=1e-5 * theirs.abs().max().item())


@compiled
def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 3, 3, requires_grad=True), torch.randn(3)
    winograd_conv(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@compiled
def test_gradients_can_be_differentiated() -> None:
    """Gradients of a norm of gradients, as of the direct form in float64."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((2, 2, 5, 6), (3, 2, 3, 3), (3,))]

    def twice(conv, inputs):
        first = torch.autograd.grad(conv(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(value.square().sum() for value in first), inputs)

    exact = twice(lambda *given: functional.conv2d(*given, padding=1), [tensor.double() for tensor in inputs])
    for mine, theirs in zip(twice(winograd_conv, inputs), exact, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@compiled
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # by torch itself
def test_functional_transforms_go_through_the_direct_form(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    conv = Conv3x3(128, 128).to(memory_format=torch.channels_last)
    x, tangent = (torch.randn(4, 128, 32, 32).to(memory_format=torch.channels_last) for _ in range(2))
    assert pays(x, conv.weight, conv.bias)
    linear = conv(tangent) - conv.bias[:, None, None]
    assert torch.allclose(torch.func.jvp(conv, (x,), (tangent,))[1], linear, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.allclose(torch.autograd.forward_ad.unpack_dual(conv(dual)).tangent, linear, atol=1e-4)
    assert torch.allclose(torch.func.vmap(conv)(x[None])[0], conv(x), atol=1e-4)


@compiled
def test_rounding_in_float32_is_small() -> None:
    """Within ten units of the last place of the result's size, with 256 channels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 16, 16, generator=generator)
    weight = torch.randn(64, 256, 3, 3, generator=generator) / 48
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    error = winograd_conv(x, weight, torch.zeros(64)) - exact
    assert error.square().mean().sqrt() < 5e-6 * exact.square().mean().sqrt()


@compiled
def test_it_is_chosen_for_many_channels_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    assert pays(*wide()) and pays(*wide(channels=32)) and pays(*wide(channels=16))
    assert not pays(*wide(channels=8))
    assert not pays(*wide(side=4)), "8 tiles do not repay the kernel's transform"
    assert pays(*wide(side=4, batch=32))
    assert not pays(*wide(side=5, channels=32, batch=256)), "of tiles that are mostly padding nothing is saved"
    without_a_compiler(monkeypatch)
    assert not pays(*wide())


def test_nothing_is_compiled_for_networks_that_have_no_use_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    asked = []
    monkeypatch.setattr(winograd, "winograd", lambda: asked.append(1) or object())
    assert not pays(*wide(channels=8)) and not asked
    assert pays(*wide()) and asked


@compiled
def test_it_is_not_tried_where_it_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch, "AVX512")
    assert not pays(*wide())


@compiled
def test_what_does_not_fit_is_an_error_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled form looks at no size."""
    on_avx2(monkeypatch)
    conv = Conv3x3(128, 128).to(memory_format=torch.channels_last)
    for channels in (64, 144, 256):
        with pytest.raises(RuntimeError, match="channels"):
            conv(torch.randn(4, channels, 16, 16).to(memory_format=torch.channels_last))
    x = torch.randn(4, 128, 16, 16).to(memory_format=torch.channels_last)
    assert conv(x[:0]).shape == (0, 128, 16, 16)
    for bias in (torch.zeros(64), torch.zeros(128, dtype=torch.float64)):
        conv.bias = torch.nn.Parameter(bias)
        with pytest.raises(RuntimeError):
            conv(x)


@compiled
def test_the_result_may_be_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    conv, x = Conv3x3(64, 64), torch.randn(2, 64, 16, 16).to(memory_format=torch.channels_last)
    assert pays(x, conv.weight, conv.bias)
    layers = torch.nn.Sequential(conv, torch.nn.ReLU(inplace=True))
    layers(x).sum().backward()
    assert conv.weight.grad is not None


@compiled
def test_gradients_of_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    conv, x = Conv3x3(32, 32), torch.randn(8, 32, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    assert pays(x, conv.weight, conv.bias)
    y, g = conv(x), torch.randn(3, 8, 32, 16, 16)
    together = torch.autograd.grad(y, x, g, retain_graph=True, is_grads_batched=True)[0]
    for one, other in zip(together, g, strict=True):
        assert torch.allclose(one, torch.autograd.grad(y, x, other, retain_graph=True)[0], atol=1e-4)


@compiled
def test_a_network_computes_the_same_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and every gradient, to rounding in float32."""
    net = forms.network()
    twin = copy.deepcopy(net)
    direct = forms.computed(net)
    monkeypatch.setattr(winograd, "pays", lambda *given: True)
    called = []
    monkeypatch.setattr(winograd, "winograd_conv", lambda *given: called.append(1) or winograd_conv(*given))
    ours = forms.computed(twin)
    assert len(called) == sum(isinstance(module, Conv3x3) for module in net.modules()) > 10
    forms.assert_the_same(ours, twin, direct, net)
