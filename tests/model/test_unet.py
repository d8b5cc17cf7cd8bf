"""The network: the review's by default, the paper's by further fields; checked against one plain function."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import alphabar as ab
from alphabar.base.errors import ConfigError
from alphabar.model.nn import (
    CIFAR10,
    LSUN256,
    AttentionBlock,
    DownSample,
    ResnetBlock,
    SinusoidalPositionEmbeddings,
    UNet,
    UNetConfig,
    UpSample,
)
from oracles.unet import ReviewUNet

TINY_HO = dataclasses.replace(
    CIFAR10, base_channels=16, base_channels_multiples=(1, 2, 2), apply_attention=(False, True, False), norm_groups=4
)
TIMES = torch.tensor([0, 1, 500, 999])


def shaken(net: UNet) -> UNet:
    """The network in evaluation mode with weights none of which is zero, one or shared."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return net.eval()


def oracle(net: UNet) -> ReviewUNet:
    c = net.config
    return ReviewUNet(
        net.state_dict(),
        c.base_channels_multiples,
        c.apply_attention,
        c.num_res_blocks,
        groups=c.norm_groups,
        eps=c.norm_eps,
        heads=c.attention_heads,
        right_and_below=c.asymmetric_padding,
    )


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(
            input_channels=1,
            output_channels=2,
            num_res_blocks=1,
            base_channels=16,
            base_channels_multiples=(1, 3, 2),
            apply_attention=(True, False, True),
            time_multiple=2,
        ),
        TINY_HO,
        dataclasses.replace(TINY_HO, num_classes=5, attention_heads=2, input_channels=6, output_channels=6),
    ],
    ids=["review", "review, other fields", "paper", "paper, classes, 6 channels"],
)
@torch.no_grad()
def test_the_function_and_the_names_of_its_weights(config: UNetConfig) -> None:
    """Equal to the plain function in float64, with every weight of the state dict used and no other needed."""
    net = shaken(UNet(**dataclasses.asdict(config)).double())
    x = torch.randn(4, config.input_channels, 16, 24, dtype=torch.float64)
    y = torch.tensor([0, 4, 2, 2]) if config.num_classes else None
    plain = oracle(net)
    torch.testing.assert_close(net(x, TIMES, y), plain(x, TIMES, y), rtol=1e-9, atol=1e-9)
    assert plain.used == set(net.state_dict())


def test_the_smoke_run_of_the_review() -> None:
    net = UNet()
    t = torch.randint(low=1, high=1000, size=(3,))
    x_t = torch.rand((3, 3, 64, 64))
    assert net(x_t, t).shape == torch.Size([3, 3, 64, 64])


def test_the_parts_have_the_reviews_signatures() -> None:
    assert SinusoidalPositionEmbeddings()(torch.tensor([3])).shape == (1, 512)
    x, t = torch.randn(2, 64, 8, 8), torch.randn(2, 512)
    assert AttentionBlock(channels=64)(x).shape == x.shape
    assert ResnetBlock(in_channels=64, out_channels=32, apply_attention=True)(x, t).shape == (2, 32, 8, 8)
    assert DownSample(channels=64)(x, t).shape == (2, 64, 4, 4)
    assert UpSample(in_channels=64)(x, t).shape == (2, 64, 16, 16)


def test_the_reviews_state_dict() -> None:
    """Names and shapes that a state dict of the review's own default network has."""
    state = UNet().state_dict()
    assert state["time_embeddings.time_blocks.0.weight"].shape == (1000, 64)
    assert state["encoder_blocks.0.conv_1.weight"].shape == (64, 64, 3, 3)
    assert state["encoder_blocks.6.attention.mhsa.in_proj_weight"].shape == (384, 128)
    assert state["decoder_blocks.3.upsample.1.weight"].shape == (256, 256, 3, 3)
    assert state["bottleneck_blocks.0.attention.group_norm.weight"].shape == (256,)
    assert state["final.2.weight"].shape == (3, 64, 3, 3)
    assert sum(value.numel() for value in state.values()) == 17_281_923


@pytest.mark.parametrize(("config", "count"), [(CIFAR10, 35_746_307), (LSUN256, 113_673_219)])
def test_the_papers_parameter_counts(config: UNetConfig, count: int) -> None:
    with torch.device("meta"):
        net = UNet(**dataclasses.asdict(config))
    assert sum(p.numel() for p in net.parameters()) == count


def test_small_init_starts_as_almost_nothing() -> None:
    """Ho et al.: every residual branch and the output start near zero, biases at zero."""
    net = UNet(**dataclasses.asdict(TINY_HO)).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, 8, 8), TIMES[:2]).abs().max() < 1e-3
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    limit = 1e-5 * (6 / (16 * 9 + 16 * 9)) ** 0.5
    assert 0 < net.encoder_blocks[0].conv_2.weight.abs().max() <= limit * (1 + 1e-6)


def test_dropout_is_only_active_in_training() -> None:
    for channelwise in (True, False):
        net = UNet(base_channels=16, dropout_rate=0.5, channel_dropout=channelwise)
        x = torch.randn(2, 3, 16, 16)
        assert not torch.equal(net(x, TIMES[:2]), net(x, TIMES[:2]))
        net.eval()
        assert torch.equal(net(x, TIMES[:2]), net(x, TIMES[:2]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_channels_multiples": (1, 2)}, "one per resolution"),
        ({"norm_groups": 7}, "norm_groups"),
        ({"base_channels": 20, "norm_groups": 4, "attention_heads": 3}, "attention_heads"),
        ({"base_channels": 9, "norm_groups": 3, "attention_heads": 1}, "even"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"base_channels_multiples": (), "apply_attention": ()}, "at least 1 item"),
    ],
)
def test_fields_that_do_not_fit(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        UNet(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(28, 32), (32, 36), (7, 8)])
def test_a_size_that_does_not_divide_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="not divisible by 8"):
        UNet(base_channels=16)(torch.zeros(1, 3, *size), TIMES[:1])


def test_labels_belong_to_networks_with_classes() -> None:
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ConfigError, match="without classes"):
        UNet(base_channels=16)(x, TIMES[:2], torch.tensor([0, 1]))
    net = UNet(base_channels=16, num_classes=3)
    with pytest.raises(ConfigError, match="3 classes"):
        net(x, TIMES[:2])

    def of(label: int) -> Tensor:
        return net.eval()(x[:1], TIMES[:1], torch.tensor([label]))

    assert not torch.equal(of(0), of(1))


@pytest.mark.parametrize("classes", [0, 3])
def test_one_time_for_all_images_is_embedded_once(classes: int) -> None:
    """As in sampling; the images are those that the same times, one per image, give."""
    net = UNet(**dataclasses.asdict(dataclasses.replace(TINY_HO, num_classes=classes))).double().eval()
    rows: list[int] = []
    net.time_embeddings.register_forward_hook(lambda module, given, out: rows.append(len(out)))
    x = torch.randn(4, TINY_HO.input_channels, 8, 8, dtype=torch.float64)
    labels = (torch.tensor([0, 2, 1, 0]),) if classes else ()
    once = net(x, torch.tensor([7]).expand(4), *labels)
    torch.testing.assert_close(once, net(x, torch.tensor([7, 7, 7, 7]), *labels), rtol=0, atol=1e-12)
    assert rows == [1, 4]
    chain = ab.Chain.spaced(ab.schedules.Linear().build(), 5)
    denoiser = ab.Denoiser(net, chain.schedule, shape=tuple(x.shape[1:]))
    for hop in chain:
        _ = denoiser(x, hop, **dict(zip("y", labels, strict=False))).x0
    assert rows[2:] == [1] * 5


@pytest.mark.parametrize("size", [(9, 13), (8, 8), (1, 30)])
def test_odd_sizes_are_padded_and_cut_back(size: tuple[int, int]) -> None:
    """What comes out is what the same network makes of the image in a frame of zeros."""
    fields = dataclasses.asdict(dataclasses.replace(TINY_HO, pad_input=True))
    net = shaken(UNet(**fields))
    plain = shaken(UNet(**dataclasses.asdict(TINY_HO)))
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, *size)
    framed = torch.zeros(2, 3, *(-(-side // 4) * 4 for side in size))
    framed[..., : size[0], : size[1]] = x
    with torch.no_grad():
        out = net(x, TIMES[:2])
        assert out.shape == x.shape
        assert torch.equal(out, plain(framed, TIMES[:2])[..., : size[0], : size[1]])


@pytest.mark.parametrize("p", [2, 4])
def test_patches_are_channels(p: int) -> None:
    """The network on p×p patches is one without them, of p² times the channels, between a fold written by hand."""
    fields = dataclasses.asdict(TINY_HO)
    net = shaken(UNet(**{**fields, "patch_size": p}))
    wide = {"input_channels": 3 * p * p, "output_channels": 3 * p * p}
    plain = shaken(UNet(**{**fields, **wide}))
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 4 * p, 8 * p)
    squares = [x[:, c, i::p, j::p] for c in range(3) for i in range(p) for j in range(p)]
    with torch.no_grad():
        out, inner = net(x, TIMES[:2]), plain(torch.stack(squares, 1), TIMES[:2])
    for k, square in enumerate((c, i, j) for c in range(3) for i in range(p) for j in range(p)):
        c, i, j = square
        assert torch.equal(out[:, c, i::p, j::p], inner[:, k])


def test_patches_count_in_the_sizes_that_fit() -> None:
    net = UNet(**{**dataclasses.asdict(TINY_HO), "patch_size": 2})
    with pytest.raises(ConfigError, match="not divisible by 8, the down-sampling of 3 resolutions of 2x2 patches"):
        net(torch.zeros(1, 3, 12, 8), TIMES[:1])
    net = UNet(**{**dataclasses.asdict(TINY_HO), "patch_size": 2, "pad_input": True})
    assert net(torch.zeros(1, 3, 13, 9), TIMES[:1]).shape == (1, 3, 13, 9)
