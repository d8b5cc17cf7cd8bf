"""3×3 convolutions by Winograd: the same function as the direct form, with its gradients, chosen where it pays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from alphabar.model.nn import UNet, winograd, winograd_sums
from alphabar.model.nn.winograd import Conv3x3, pays, winograd_conv
from alphabar.model.nn.winograd_native import native_sums

compiled = pytest.mark.skipif(native_sums() is None, reason="there is no C compiler")


def wide(side: int = 32, channels: int = 256, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as the network has them, channels innermost, and a kernel: no memory is touched."""
    images = torch.empty(batch, channels, side, side).to(memory_format=torch.channels_last)
    return images, torch.empty(channels, channels, 3, 3)


def on_avx2(monkeypatch: pytest.MonkeyPatch, capability: str = "AVX2") -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "native_sums", lambda: None)


# sides that tiles of four fill and do not fill, one tile and several, one position
SIDES = pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 5), (4, 12), (1, 1), (6, 3)])


@SIDES
@pytest.mark.parametrize("chunk", [1, 2**30], ids=["image by image", "at once"])
def test_values_and_gradients_are_those_of_the_direct_form(
    height: int, width: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(height * width)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    inputs = drawn(3, 5, height, width), drawn(4, 5, 3, 3), drawn(4)
    ours, direct = winograd_conv(*inputs), functional.conv2d(*inputs, padding=1)
    assert torch.allclose(ours, direct, rtol=0, atol=1e-12)
    g = torch.randn(direct.shape, generator=generator, dtype=torch.float64)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(direct, inputs, g), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


@compiled
@SIDES
# fewer channels than are worked on at once, as many, and some more
@pytest.mark.parametrize(("channels", "out_channels"), [(5, 3), (16, 32), (1, 17), (40, 16)])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_sums_are_those_of_torch(
    height: int, width: int, channels: int, out_channels: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(height * width + channels)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    ours, before = native_sums(), torch.get_num_threads()
    images, tiles = drawn(3, height, width, channels), 3 * -(-height // 4) * -(-width // 4)
    points, weight, bias = drawn(36, tiles, channels), drawn(out_channels, channels, 3, 3), drawn(channels)
    of_kernels = drawn(36, out_channels, channels)
    apart = drawn(3, height, 2 * width, channels)[:, :, ::2]  # columns that are not beside each other
    found = {}
    try:
        torch.set_num_threads(threads)
        for who, sums in (("torch", winograd_sums), ("compiled", ours)):
            positions, summed = torch.full_like(images, torch.nan), torch.full_like(images, torch.nan)
            sums.positions(points, bias, positions)
            sums.images_of_points(points, summed)
            found[who] = [
                positions,
                summed,
                *(
                    function(some)
                    for function in (sums.points_of_images, sums.points_of_gradient)
                    for some in (images, apart)
                ),
                sums.points_of_kernels(weight),
                sums.points_of_kernels(weight.to(memory_format=torch.channels_last)),
                sums.kernels_of_points(of_kernels),
            ]
    finally:
        torch.set_num_threads(before)
    for mine, theirs in zip(found["compiled"], found["torch"], strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


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


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 3, 3, requires_grad=True), torch.randn(3)
    winograd_conv(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


def test_gradients_can_be_differentiated() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 2, 5, 6), (3, 2, 3, 3), (3,)
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradgradcheck(winograd_conv, inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # by torch itself
def test_functional_transforms_go_through_the_direct_form(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    conv = Conv3x3(128, 128).to(memory_format=torch.channels_last)
    x, tangent = (torch.randn(4, 128, 32, 32).to(memory_format=torch.channels_last) for _ in range(2))
    assert pays(x, conv.weight)
    linear = conv(tangent) - conv.bias[:, None, None]
    assert torch.allclose(torch.func.jvp(conv, (x,), (tangent,))[1], linear, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.allclose(torch.autograd.forward_ad.unpack_dual(conv(dual)).tangent, linear, atol=1e-4)
    assert torch.allclose(torch.func.vmap(conv)(x[None])[0], conv(x), atol=1e-4)


def test_rounding_in_float32_is_small() -> None:
    """Within ten units of the last place of the result's size, with 256 channels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 16, 16, generator=generator)
    weight = torch.randn(64, 256, 3, 3, generator=generator) / 48
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    error = winograd_conv(x, weight, torch.zeros(64)) - exact
    assert error.square().mean().sqrt() < 5e-6 * exact.square().mean().sqrt()


def test_it_is_chosen_for_many_channels_and_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    without_a_compiler(monkeypatch)
    assert pays(*wide())
    assert not pays(*wide(channels=64))
    assert not pays(*wide(side=4)), "8 tiles do not repay the kernel's transform"
    assert pays(*wide(side=4, batch=256))
    assert not pays(*wide(side=5, batch=256)), "of tiles that are mostly padding nothing is saved"


@compiled
def test_compiled_it_is_chosen_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    assert pays(*wide(channels=64)) and pays(*wide(channels=32, batch=32))
    assert not pays(*wide(channels=16))
    assert not pays(*wide(side=4)), "8 tiles do not repay the kernel's transform"
    assert pays(*wide(side=4, batch=32))
    assert not pays(*wide(side=5, channels=128, batch=256)), "of tiles that are mostly padding nothing is saved"


def test_nothing_is_compiled_for_processors_that_could_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch, "DEFAULT")
    monkeypatch.setattr("alphabar.model.nn.winograd_native.native", lambda source: pytest.fail("compiled"))
    assert native_sums.__wrapped__() is None


def test_nothing_is_compiled_for_networks_that_have_no_use_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch)
    asked = []
    monkeypatch.setattr(winograd, "native_sums", lambda: asked.append(1))
    assert not pays(*wide(channels=8)) and not asked
    assert pays(*wide()) and asked


def test_it_is_not_tried_where_it_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    on_avx2(monkeypatch, "AVX512")
    assert not pays(*wide())
    on_avx2(monkeypatch)
    x, weight = wide()
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)
    assert not pays(x.double(), weight.double())
    assert not pays(x.to("meta"), weight.to("meta"))
    assert not pays(x.contiguous(), weight)


def test_a_network_computes_the_same_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and every gradient, to rounding in float32."""
    torch.manual_seed(0)
    net = UNet(1, 1, 1, 16, (1, 2), (False, False), 0.0, norm_groups=4, total_time_steps=None, small_init=False)
    net = net.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(net)
    x, t = torch.randn(2, 1, 8, 8).to(memory_format=torch.channels_last), torch.tensor([3, 700])
    direct = net(x, t)
    direct.square().sum().backward()
    monkeypatch.setattr(winograd, "pays", lambda x, weight: True)
    called = []
    monkeypatch.setattr(winograd, "winograd_conv", lambda *given: called.append(1) or winograd_conv(*given))
    ours = twin(x, t)
    ours.square().sum().backward()
    assert len(called) == sum(isinstance(module, Conv3x3) for module in net.modules()) > 10
    assert torch.allclose(ours, direct, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert (mine.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm() + 1e-5
