"""What one network call costs for one image, from the shape of the network alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.base.memory import available_memory
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet, UNetConfig

__all__ = ["flops_per_image", "images_at_once", "memory_per_image", "memory_per_image_trained", "without_values"]


def flops_per_image(denoiser: Denoiser) -> int:
    """Floating-point operations of one forward pass for one image (a multiply-add counts as two).

    Raises:
        ConfigError: if the network is no ``UNet``.
    """
    net = without_values(unet(denoiser).config).eval()
    x = torch.zeros((1, *denoiser.shape), device="meta")
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    labels = {"y": t} if net.config.num_classes else {}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(x, t, **labels)
    return int(counter.get_total_flops())


def without_values(config: UNetConfig) -> UNet:
    """The network as shapes alone, which take no memory, whatever its size and that of the images."""
    with torch.device("meta"):
        return UNet(**dataclasses.asdict(config))


def images_at_once(denoiser: Denoiser) -> int | None:
    """How many images a U-Net without gradients may take, to leave half of the free memory free; None: any number.

    A power of two, or every bit of memory that others hold could change how sums are rounded.
    """
    if not isinstance(denoiser.net, UNet):
        return None
    free = available_memory(next(denoiser.net.parameters()).device)
    if free is None:
        return None
    most = free // 2 // memory_per_image(denoiser.net.config, *denoiser.shape[1:])
    return 1 << max(0, most.bit_length() - 1)


class _Block(NamedTuple):
    """A block of the U-Net: what it takes and gives in channels, at so many positions.

    ``own`` are the channels that come from the block before it, ``entering`` those and the encoder's that are joined to
    them; ``waiting`` counts the values that wait for the decoder meanwhile.
    """

    positions: int
    own: int
    entering: int
    leaving: int
    attends: bool
    waiting: int


def _positions(config: UNetConfig, height: int, width: int) -> list[int]:
    """The positions of every resolution."""
    return [rows * columns for rows, columns in config.sizes(height, width)]


def _blocks(config: UNetConfig, positions: list[int]) -> Iterator[_Block]:
    """The blocks in the order in which they work."""
    levels, widths = range(len(positions)), config.widths
    channels = config.base_channels
    waiting = [channels * positions[0]]

    for level in levels:
        for _ in range(config.num_res_blocks):
            attends = config.apply_attention[level]
            yield _Block(positions[level], channels, channels, widths[level], attends, sum(waiting))
            channels = widths[level]
            waiting.append(channels * positions[level])
        if level + 1 < len(levels):
            waiting.append(channels * positions[level + 1])
    for attends in (True, False):
        yield _Block(positions[-1], channels, channels, channels, attends, sum(waiting))
    for level in reversed(levels):
        for _ in range(config.num_res_blocks + 1):
            joined = channels + waiting.pop() // positions[level]
            yield _Block(positions[level], channels, joined, widths[level], config.apply_attention[level], sum(waiting))
            channels = widths[level]


def memory_per_image(config: UNetConfig, height: int, width: int) -> int:
    """About how many bytes are held for one image at the most while it is sampled, in float32.

    Thirteen images: x_t, its patches, the output, what a sampler remembers. What waits for the decoder. And what the
    block at work holds: what enters it, in the decoder also the two parts that were joined to enter it; that
    normalised, before and after its nonlinearity, or three of what leaves it, or eight with attention. What kernels
    need beside their inputs and outputs is not counted.
    """

    def at_work(block: _Block) -> int:
        entering, leaving = block.entering, block.leaving
        parts = entering if entering > block.own else 0
        inside = max(2 * entering, entering + leaving, (8 if block.attends else 3) * leaving)
        return block.waiting + (parts + entering + inside) * block.positions

    images = 13 * max(config.input_channels, config.output_channels) * height * width
    return 4 * (max(map(at_work, _blocks(config, _positions(config, height, width)))) + images)


def memory_per_image_trained(config: UNetConfig, height: int, width: int, *, checkpointing: bool) -> int:
    """About how many bytes are held for one image at the most in a training step, in float32.

    For its backward pass a block keeps what enters it and what leaves its first half, both also normalised and after
    their nonlinearity, and seven times what leaves it where it attends. With activation ``checkpointing`` only what
    enters from the block before it, and all of that for one block at a time. Nine images: x_0, ε, x_t, the loss. What
    kernels need beside their inputs and outputs is not counted. It is less where norms are compiled: what is normalised
    is not kept before its nonlinearity then.
    """
    positions, widths = _positions(config, height, width), config.widths
    mask = 1 if config.dropout_rate and not config.channel_dropout else 0

    def kept(block: _Block) -> int:
        attention = 7 if block.attends else 0
        return (3 * block.entering + (3 + mask + attention) * block.leaving) * block.positions

    blocks = list(_blocks(config, positions))
    values = sum(map(kept, blocks))
    if checkpointing:
        values = sum(block.own * block.positions for block in blocks) + max(map(kept, blocks))
    for finer, coarser in itertools.pairwise(range(len(widths))):  # what was halved in size, and what was doubled
        values += (widths[finer] + widths[coarser]) * positions[finer]
    values += 3 * widths[0] * positions[0]  # before the last convolution
    values += 9 * max(config.input_channels, config.output_channels) * height * width
    return 4 * values
