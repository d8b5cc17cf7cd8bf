"""The U-Net of the review, which is also the paper's when the fields say so.

``UNet()`` is exactly the review's network: same defaults, same names of keywords, classes, submodules and parameters,
so its state dicts load with ``strict=True``. ``CIFAR10`` and ``LSUN256`` are the paper's two networks.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError
from alphabar.model.nn.blocks import DownSample, Final, ResnetBlock, UpSample, initialise_small
from alphabar.model.nn.embed import SinusoidalPositionEmbeddings

__all__ = ["CIFAR10", "LSUN256", "UNet", "UNetConfig"]

# far above any network that was ever trained, and low enough that a description cannot ask for endless work
Count = Annotated[int, Field(ge=1, le=4096)]
Rows = Annotated[int, Field(ge=1, le=100_000)]
LEVELS = 12


@choice
class UNetConfig:
    """Every choice that defines the network. The first eight are the review's, in its order.

    Attributes:
        input_channels: channels of x_t.
        output_channels: channels of the output: the same, or twice as many for a learned variance.
        num_res_blocks: blocks per resolution in the encoder; the decoder has one more.
        base_channels: width at full resolution, and the number of sinusoids.
        base_channels_multiples: width at each resolution, in units of ``base_channels``; its length is their number.
        apply_attention: whether the blocks of each resolution attend.
        dropout_rate: in [0, 1).
        time_multiple: width of the time embedding in units of ``base_channels``.
        num_classes: 0, or the number of labels; each gets a vector that is added to the time embedding.
        total_time_steps: rows of a stored table of sinusoids (the review), or None for any t (the paper).
        attention_heads: heads of every attention.
        norm_groups: groups of every GroupNorm.
        norm_eps: ε of every GroupNorm.
        channel_dropout: drop whole channels (the review) or single values (the paper).
        asymmetric_padding: see :class:`~alphabar.model.nn.blocks.DownSample`.
        small_init: Ho et al.'s initialisation instead of torch's.
        pad_input: pad images whose sides are no multiples of the down-sampling with zeros, as every convolution does at
            its borders, and cut the output back. Without it such sizes are refused.
        patch_size: p folds each p×p square of pixels into channels before the first convolution and unfolds it after
            the last (Hoogeboom et al. 2023, "simple diffusion", §2.4): every layer works on p² times fewer positions.
    """

    input_channels: Count = 3
    output_channels: Count = 3
    num_res_blocks: Annotated[int, Field(ge=1, le=64)] = 2
    base_channels: Annotated[int, Field(ge=4, le=65536)] = 64
    base_channels_multiples: Annotated[tuple[Count, ...], Field(min_length=1, max_length=LEVELS)] = (1, 2, 2, 4)
    apply_attention: tuple[bool, ...] = (False, False, True, False)
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    time_multiple: Count = 4
    num_classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    total_time_steps: Rows | None = 1000
    attention_heads: Count = 4
    norm_groups: Count = 8
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    channel_dropout: bool = True
    asymmetric_padding: bool = False
    small_init: bool = False
    pad_input: bool = False
    patch_size: Annotated[int, Field(ge=1, le=64)] = 1

    def __post_init__(self) -> None:
        """Check that the fields fit each other."""
        if len(self.apply_attention) != len(self.base_channels_multiples):
            raise ConfigError(
                f"net.apply_attention has {len(self.apply_attention)} entries and net.base_channels_multiples "
                f"{len(self.base_channels_multiples)}; both need one per resolution"
            )
        if self.base_channels % 2:
            raise ConfigError(f"net.base_channels: got {self.base_channels}, need an even number (sines and cosines)")
        for width in (self.base_channels, *self.widths):
            if width % self.norm_groups:
                raise ConfigError(
                    f"net: width {width} is not divisible by norm_groups = {self.norm_groups}; change base_channels"
                )
            if width % self.attention_heads:
                raise ConfigError(
                    f"net: width {width} is not divisible by attention_heads = {self.attention_heads}; "
                    "change base_channels or attention_heads"
                )

    @property
    def widths(self) -> list[int]:
        """The channels at each resolution."""
        return [self.base_channels * multiple for multiple in self.base_channels_multiples]

    @property
    def down_sampling(self) -> int:
        """The factor between the largest and smallest resolution: both sides of an image must be multiples of it."""
        return int(self.patch_size * 2 ** (len(self.base_channels_multiples) - 1))

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError unless images of this size pass down and up unchanged."""
        factor = self.down_sampling
        if not self.pad_input and (height % factor or width % factor):
            patches = "" if self.patch_size == 1 else f" of {self.patch_size}x{self.patch_size} patches"
            raise ConfigError(
                f"image size {height}x{width} is not divisible by {factor}, the down-sampling of "
                f"{len(self.base_channels_multiples)} resolutions{patches}; set net.pad_input=true, resize the images, "
                "or give fewer base_channels_multiples"
            )

    def padded(self, side: int) -> int:
        """The side that the network works at for an image's ``side``."""
        return side + -side % self.down_sampling

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The rows and columns of every resolution, for images of this size."""
        rows, columns = (self.padded(side) // self.patch_size for side in (height, width))
        return [(rows >> level, columns >> level) for level in range(len(self.base_channels_multiples))]


CIFAR10 = UNetConfig(
    base_channels=128,
    base_channels_multiples=(1, 2, 2, 2),
    apply_attention=(False, True, False, False),
    total_time_steps=None,
    attention_heads=1,
    norm_groups=32,
    norm_eps=1e-6,
    channel_dropout=False,
    asymmetric_padding=True,
    small_init=True,
)
LSUN256 = dataclasses.replace(
    CIFAR10,
    base_channels_multiples=(1, 1, 2, 2, 4, 4),
    apply_attention=(False, False, False, False, True, False),
    dropout_rate=0.0,
)


class UNet(nn.Module):
    """ε_θ(x_t, t): ``net(x_t [B, C, H, W], t int64 [B], y int64 [B] | None) → [B, output_channels, H, W]``.

    The keyword arguments are the fields of :class:`UNetConfig`; ``UNet(**dataclasses.asdict(config))`` builds a config.

    Attributes:
        activation_checkpointing: keep only what enters each block for the backward pass, which computes the block again
            (Chen et al. 2016, "Training deep nets with sublinear memory cost"): less memory, a longer step, the same
            gradients bit for bit.

    Raises:
        ConfigError: if the fields do not fit each other, an image's size is not divisible by the down-sampling, or
            labels are given to (or kept from) a network that was not (or was) built with ``num_classes``.
    """

    def __init__(
        self,
        input_channels: int = UNetConfig.input_channels,
        output_channels: int = UNetConfig.output_channels,
        num_res_blocks: int = UNetConfig.num_res_blocks,
        base_channels: int = UNetConfig.base_channels,
        base_channels_multiples: tuple[int, ...] = UNetConfig.base_channels_multiples,
        apply_attention: tuple[bool, ...] = UNetConfig.apply_attention,
        dropout_rate: float = UNetConfig.dropout_rate,
        time_multiple: int = UNetConfig.time_multiple,
        *,
        num_classes: int = UNetConfig.num_classes,
        total_time_steps: int | None = UNetConfig.total_time_steps,
        attention_heads: int = UNetConfig.attention_heads,
        norm_groups: int = UNetConfig.norm_groups,
        norm_eps: float = UNetConfig.norm_eps,
        channel_dropout: bool = UNetConfig.channel_dropout,
        asymmetric_padding: bool = UNetConfig.asymmetric_padding,
        small_init: bool = UNetConfig.small_init,
        pad_input: bool = UNetConfig.pad_input,
        patch_size: int = UNetConfig.patch_size,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = False
        self.config = UNetConfig(
            input_channels=input_channels,
            output_channels=output_channels,
            num_res_blocks=num_res_blocks,
            base_channels=base_channels,
            base_channels_multiples=base_channels_multiples,
            apply_attention=apply_attention,
            dropout_rate=dropout_rate,
            time_multiple=time_multiple,
            num_classes=num_classes,
            total_time_steps=total_time_steps,
            attention_heads=attention_heads,
            norm_groups=norm_groups,
            norm_eps=norm_eps,
            channel_dropout=channel_dropout,
            asymmetric_padding=asymmetric_padding,
            small_init=small_init,
            pad_input=pad_input,
            patch_size=patch_size,
        )
        time_emb_dims_exp = base_channels * time_multiple

        def block(in_channels: int, out_channels: int, apply_attention: bool) -> ResnetBlock:
            return ResnetBlock(
                in_channels=in_channels,
                out_channels=out_channels,
                dropout_rate=dropout_rate,
                time_emb_dims=time_emb_dims_exp,
                apply_attention=apply_attention,
                heads=attention_heads,
                norm_groups=norm_groups,
                norm_eps=norm_eps,
                channel_dropout=channel_dropout,
            )

        self.time_embeddings = SinusoidalPositionEmbeddings(total_time_steps, base_channels, time_emb_dims_exp)
        if num_classes:
            self.label_embeddings = nn.Embedding(num_classes, time_emb_dims_exp)
        self.first = nn.Conv2d(input_channels * patch_size**2, base_channels, kernel_size=3, padding="same")

        levels = self.config.widths
        channels = base_channels
        skips = [channels]
        self.encoder_blocks = nn.ModuleList()
        for level, width in enumerate(levels):
            for _ in range(num_res_blocks):
                self.encoder_blocks.append(block(channels, width, apply_attention[level]))
                channels = width
                skips.append(channels)
            if level != len(levels) - 1:
                self.encoder_blocks.append(DownSample(channels, asymmetric_padding=asymmetric_padding))
                skips.append(channels)

        self.bottleneck_blocks = nn.ModuleList([block(channels, channels, True), block(channels, channels, False)])

        self.decoder_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(levels))):
            for _ in range(num_res_blocks + 1):
                self.decoder_blocks.append(block(channels + skips.pop(), width, apply_attention[level]))
                channels = width
            if level != 0:
                self.decoder_blocks.append(UpSample(channels))

        last = nn.Conv2d(channels, output_channels * patch_size**2, kernel_size=3, padding="same")
        self.final = Final(nn.GroupNorm(norm_groups, channels, eps=norm_eps), nn.SiLU(), last)
        if small_init:
            initialise_small(self, last)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """``x`` [B, input_channels, H, W], ``t`` int64 [B] counted from 0, labels ``y`` int64 [B]."""
        height, width = x.shape[2:]
        self.config.check_size(height, width)
        if self.config.pad_input:
            x = functional.pad(x, (0, self.config.padded(width) - width, 0, self.config.padded(height) - height))
        # while sampling t is one number for all images (an expanded tensor), and so is all that follows from it
        embedding = self.time_embeddings(t[:1] if t.stride(0) == 0 else t)
        if self.config.num_classes:
            if y is None:
                raise ConfigError(f"this network was built for {self.config.num_classes} classes; give labels y [B]")
            embedding = embedding + self.label_embeddings(y)
        elif y is not None:
            raise ConfigError("this network was built without classes; leave out y, or build it with num_classes")

        h = self.first(functional.pixel_unshuffle(x, self.config.patch_size))
        skips = [h]
        for layer in self.encoder_blocks:
            h = self._run(layer, embedding, h)
            skips.append(h)
        for layer in self.bottleneck_blocks:
            h = self._run(layer, embedding, h)
        for layer in self.decoder_blocks:
            h = self._run(layer, embedding, h, *([skips.pop()] if isinstance(layer, ResnetBlock) else []))
        out = functional.pixel_shuffle(self.final(h), self.config.patch_size)
        return out[..., :height, :width]

    def _run(self, layer: nn.Module, embedding: Tensor, *inputs: Tensor) -> Tensor:
        """``layer`` on its ``inputs``, joined along the channels."""
        if self.activation_checkpointing and torch.is_grad_enabled() and isinstance(layer, ResnetBlock):
            out: Tensor = checkpoint(_joined, layer, embedding, *inputs, use_reentrant=False)
            return out
        return _joined(layer, embedding, *inputs)


def _joined(layer: nn.Module, embedding: Tensor, *inputs: Tensor) -> Tensor:
    out: Tensor = layer(torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0], embedding)
    return out
