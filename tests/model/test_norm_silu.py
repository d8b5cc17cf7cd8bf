"""SiLU of a GroupNorm of x + shift: the same function as torch's operators, with its gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import forms
from alphabar.model.nn import UNet, norm_silu
from alphabar.model.nn.norm_silu import norm_silu_library

compiled = pytest.mark.skipif(norm_silu_library() is None, reason="there is no C compiler")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time the compiled form was used."""
    found: list[int] = []
    apply = norm_silu._NormSiLU.apply
    monkeypatch.setattr(norm_silu._NormSiLU, "apply", lambda *given: found.append(1) or apply(*given))
    return found


def made(channels: int, groups: int, generator: torch.Generator, eps: float = 1e-5) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=eps)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    return norm


def drawn(generator: torch.Generator, *shape: int, mean: float = 0, std: float = 1) -> torch.Tensor:
    x = mean + std * torch.randn(shape, generator=generator)
    return (x.to(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def exact(norm: nn.GroupNorm, x: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
    """In float64, step by step."""
    z = x.double() if shift is None else x.double() + shift.double()[:, :, None, None]
    groups = z.reshape(len(x), norm.num_groups, -1)
    groups = groups - groups.mean(2, keepdim=True)
    groups = groups / (groups.square().mean(2, keepdim=True) + norm.eps).sqrt()
    z = groups.reshape(x.shape) * norm.weight.double().view(-1, 1, 1) + norm.bias.double().view(-1, 1, 1)
    return z / (1 + torch.exp(-z))


def gradients(out: torch.Tensor, inputs: list[torch.Tensor], g: torch.Tensor) -> list[torch.Tensor]:
    return [out, *torch.autograd.grad(out, inputs, g.to(out.dtype))]


@compiled
@pytest.mark.parametrize(
    ("batch", "channels", "groups", "height", "width"),
    # groups within a vector of eight, as wide, wider and across vectors; one position; more than a block of sixteen
    [(3, 16, 8, 5, 4), (2, 8, 1, 1, 1), (1, 48, 4, 7, 9), (2, 24, 2, 4, 4), (3, 64, 64, 3, 6), (1, 32, 1, 17, 16)],
)
@pytest.mark.parametrize("shifts", [None, 1, "each"])
@pytest.mark.parametrize("threads", [1, 4])
def test_values_and_gradients(batch, channels, groups, height, width, shifts, threads, asked) -> None:
    generator = torch.Generator().manual_seed(channels + height)
    norm = made(channels, groups, generator, eps=1e-3)
    x = drawn(generator, batch, channels, height, width, mean=2, std=3)
    g = torch.randn(x.shape, generator=generator)
    shift = None if shifts is None else drawn(generator, 1 if shifts == 1 else batch, channels)
    inputs = [x, norm.weight, norm.bias, *([] if shift is None else [shift])]
    with forms.threads(threads):
        ours = gradients(norm_silu.norm_silu(norm, nn.SiLU(), x, shift), inputs, g)
    assert asked
    for mine, theirs in zip(ours, gradients(exact(norm, x, shift), inputs, g), strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine.double(), theirs.double(), rtol=1e-5, atol=5e-6 * max(1, theirs.abs().max().item()))


@compiled
def test_a_mean_far_from_zero_loses_no_variance() -> None:
    """Sums of squares of the values themselves would: a thousand deviations from 0, in float32."""
    generator = torch.Generator().manual_seed(0)
    norm, x = made(16, 2, generator), drawn(generator, 2, 16, 8, 8, mean=1000)
    error = norm_silu.norm_silu(norm, nn.SiLU(), x) - exact(norm, x, None)
    assert error.abs().max() < 1e-3


@compiled
@pytest.mark.parametrize("value", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("side", [33, 256])
def test_a_first_value_far_from_the_others_costs_no_precision(value: float, side: int) -> None:
    """The corner of an image is padded, so it may be like no other; and nothing of a constant is no number."""
    generator = torch.Generator().manual_seed(0)
    norm, x = made(16, 8, generator, eps=1e-6), torch.randn(1, 16, side, side, generator=generator)
    for images in (x, 0.1 * torch.ones_like(x)):
        images[:, :, 0, 0] = value
        images = images.to(memory_format=torch.channels_last)
        ours, true = norm_silu.norm_silu(norm, nn.SiLU(), images), exact(norm, images, None)
        torchs = functional.silu(norm(images.contiguous()))
        # at worst what torch's own loses, and rounding
        assert (ours - true).abs().max() <= 2 * (torchs - true).abs().max() + 2e-6 * true.abs().max()


@compiled
@pytest.mark.parametrize("value", [0.0, 1e-30, -20.0, 88.0, -88.0, 200.0, -1e4, 1e30, -1e30])
def test_silu_of_any_size(value: float) -> None:
    norm = nn.GroupNorm(1, 8)
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, value)
    x = torch.randn(1, 8, 4, 4).to(memory_format=torch.channels_last)
    out = norm_silu.norm_silu(norm, nn.SiLU(), x)
    expected = functional.silu(torch.tensor(value, dtype=torch.float64)).item()
    assert torch.allclose(
        out.double(), torch.tensor(expected, dtype=torch.float64), rtol=3e-7, atol=1e-30 + 2e-38 * abs(value)
    )
    out.sum().backward()
    z = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    functional.silu(z).backward()
    assert torch.allclose(norm.bias.grad.double(), 16 * z.grad, rtol=1e-6, atol=1e-30 + 4e-37 * abs(value))


@compiled
def test_what_is_infinite_stays_so() -> None:
    norm, x = nn.GroupNorm(1, 8), torch.randn(1, 8, 4, 4).to(memory_format=torch.channels_last)
    nn.init.constant_(norm.bias, torch.inf)
    assert norm_silu.norm_silu(norm, nn.SiLU(), x).isposinf().all()


@compiled
def test_what_is_no_number_stays_none(asked) -> None:
    norm, x = nn.GroupNorm(2, 16), torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last)
    x[1, 3, 2, 2] = torch.nan
    out = norm_silu.norm_silu(norm, nn.SiLU(), x)
    assert asked and out[1, :8].isnan().all() and out[0].isfinite().all() and out[1, 8:].isfinite().all()


@compiled
def test_the_number_of_threads_and_of_images_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    norm, x = made(64, 8, generator), drawn(generator, 3, 64, 9, 5)
    found, g = [], torch.randn(3, 64, 9, 5, generator=generator)
    for threads in (1, 2, 7):
        with forms.threads(threads):
            found.append(gradients(norm_silu.norm_silu(norm, nn.SiLU(), x), [x, norm.weight, norm.bias], g))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
    assert torch.equal(norm_silu.norm_silu(norm, nn.SiLU(), x[1:2]), found[0][0][1:2])


@compiled
@pytest.mark.parametrize("shifted", [False, True])
def test_gradients_can_be_differentiated(shifted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    norm, x = made(8, 2, generator), drawn(generator, 2, 8, 3, 3)
    shift = drawn(generator, 2, 8) if shifted else None
    inputs = [x, norm.weight, norm.bias, *([] if shift is None else [shift])]

    def twice(out: torch.Tensor) -> list[torch.Tensor]:
        first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        return list(torch.autograd.grad(sum(value.square().sum() for value in first), inputs))

    ours, theirs = twice(norm_silu.norm_silu(norm, nn.SiLU(), x, shift)), twice(exact(norm, x, shift))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 2e-5 * other.abs().max()


@compiled
def test_gradients_that_are_differentiated_do_not_go_through_what_joins_the_inputs() -> None:
    """A shift that was made of x, and one norm used twice: the first gradient is the same either way."""
    generator = torch.Generator().manual_seed(0)
    norm, x = made(8, 2, generator), drawn(generator, 2, 8, 5, 5)
    matrix = torch.randn(8, 8, generator=generator)

    def computed() -> torch.Tensor:
        once = norm_silu.norm_silu(norm, nn.SiLU(), x, x.mean((2, 3)) @ matrix)
        return norm_silu.norm_silu(norm, nn.SiLU(), once).square().sum()

    inputs = [x, norm.weight, norm.bias]
    for one, other in zip(
        torch.autograd.grad(computed(), inputs),
        torch.autograd.grad(computed(), inputs, create_graph=True),
        strict=True,
    ):
        assert (one - other).abs().max() <= 1e-4 * one.abs().max()


@compiled
def test_what_was_saved_may_come_back_in_another_form() -> None:
    generator = torch.Generator().manual_seed(0)
    norm, x = made(16, 4, generator), drawn(generator, 2, 16, 5, 5)
    inputs, g = [x, norm.weight, norm.bias], torch.randn(2, 16, 5, 5, generator=generator)
    plainly = gradients(norm_silu.norm_silu(norm, nn.SiLU(), x), inputs, g)
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept.double().contiguous(), lambda kept: kept):
        kept = norm_silu.norm_silu(norm, nn.SiLU(), x)
    for one, other in zip(plainly, gradients(kept, inputs, g), strict=True):
        assert torch.equal(one, other)


@compiled
def test_only_what_it_computes_reaches_it(asked) -> None:
    """Everything else is torch's, with torch's errors: the compiled form looks at no size."""
    generator = torch.Generator().manual_seed(0)
    norm, x, act = made(16, 4, generator), drawn(generator, 4, 16, 4, 4).detach(), nn.SiLU()
    norm_silu.norm_silu(norm, act, x, torch.zeros(4, 16))
    assert asked.pop() and not asked
    heard = []
    hooked = copy.deepcopy(norm)
    hooked.register_forward_hook(lambda *given: heard.append(1))
    watched = nn.SiLU()
    watched.register_forward_pre_hook(lambda *given: heard.append(1))
    replaced = copy.deepcopy(norm)
    replaced.forward = torch.zeros_like
    apart = copy.deepcopy(norm)
    apart.weight = nn.Parameter(torch.randn(32)[::2])
    for others in (
        (nn.GroupNorm(4, 16, affine=False), act, x),
        (nn.GroupNorm(4, 16, bias=False), act, x),
        (replaced, act, x),
        (apart, act, x),
        (norm, act, x[:, :, :0]),
        (norm, act, torch._neg_view(x)),
        (nn.BatchNorm2d(16), act, x),
        (norm, nn.GELU(), x),
        (hooked, act, x),
        (norm, watched, x),
        (made(12, 4, generator), act, torch.randn(2, 12, 4, 4).to(memory_format=torch.channels_last)),
        (norm, act, x[:1], torch.zeros(4, 16)),
    ):
        norm_silu.norm_silu(*others)
    narrow = x[:, :8].contiguous(memory_format=torch.channels_last)
    short = copy.deepcopy(norm)
    short.weight = nn.Parameter(torch.ones(8))
    odd = copy.deepcopy(norm)
    odd.num_groups = 3
    for wrong in (
        (norm, act, x, torch.zeros(3, 16)),
        (norm, act, narrow),
        (short, act, x),
        (odd, act, x),
        (norm, act, x[0, :, 0, 0]),
        (nn.GroupNorm(8, 8), act, narrow[:1, :, :1, :1].contiguous(memory_format=torch.channels_last)),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            norm_silu.norm_silu(*wrong)
    assert len(heard) == 2 and not asked


def test_what_ends_the_network_is_a_sequence_as_any() -> None:
    final, x = UNet(1, 1, 1, 16, (1, 2), (False, False), norm_groups=4).final, torch.randn(2, 16, 8, 8)
    norm, act, last = final
    assert list(final.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert torch.equal(final(x), last(act(norm(x))))
    assert torch.equal(final[:2](x), act(norm(x))) and torch.equal(final[:1](x), norm(x))
    final.append(nn.Tanh())
    assert torch.equal(final(x), last(act(norm(x))).tanh())
    final.insert(0, nn.Identity())
    assert torch.equal(final(x), last(act(norm(x))).tanh())


@compiled
def test_a_network_computes_the_same_with_it(asked, monkeypatch) -> None:
    net = forms.network()
    twin = copy.deepcopy(net)
    ours = forms.computed(net)
    blocks = sum(type(module).__name__ == "ResnetBlock" for module in net.modules())
    assert len(asked) == 2 * blocks + 1
    monkeypatch.setattr(norm_silu, "norm_silu_library", lambda: None)
    theirs = forms.computed(twin)
    assert len(asked) == 2 * blocks + 1
    forms.assert_the_same(ours, net, theirs, twin)
