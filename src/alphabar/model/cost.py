"""What one network call costs for one image, from the shape of the network alone."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.base.memory import available_memory
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet, UNetConfig

__all__ = ["flops_per_image", "images_at_once", "memory_per_image"]


def flops_per_image(denoiser: Denoiser) -> int:
    """Floating-point operations of one forward pass for one image (a multiply-add counts as two).

    Raises:
        ConfigError: if the network is no ``UNet``.
    """
    config = unet(denoiser).config
    with torch.device("meta"):  # shapes alone: no memory, whatever the size of the images
        net = UNet(**dataclasses.asdict(config)).eval()
        x, t = torch.zeros((1, *denoiser.shape)), torch.zeros(1, dtype=torch.int64)
    labels = {"y": t} if config.num_classes else {}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(x, t, **labels)
    return int(counter.get_total_flops())


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


def memory_per_image(config: UNetConfig, height: int, width: int) -> int:
    """About how many bytes are held for one image at the most while it is sampled, in float32.

    Thirteen images: x_t, its patches, the output, what a sampler remembers. What waits for the decoder. And what the
    block at work holds: what enters it, in the decoder also the two parts that were joined to enter it; that
    normalised, before and after its nonlinearity, or three of what leaves it, or eight with attention. What kernels
    need beside their inputs and outputs is not counted.
    """
    rows, columns = (config.padded(side) // config.patch_size for side in (height, width))
    levels = range(len(config.base_channels_multiples))
    positions = [(rows >> level) * (columns >> level) for level in levels]
    widths = [config.base_channels * multiple for multiple in config.base_channels_multiples]
    channels = config.base_channels
    waiting = [channels * positions[0]]
    most = 0

    def block(level: int, entering: int, leaving: int, *, attends: bool, parts: int = 0) -> None:
        nonlocal most
        at_work = parts + entering + max(2 * entering, entering + leaving, (8 if attends else 3) * leaving)
        most = max(most, sum(waiting) + at_work * positions[level])

    for level in levels:
        for _ in range(config.num_res_blocks):
            block(level, channels, widths[level], attends=config.apply_attention[level])
            channels = widths[level]
            waiting.append(channels * positions[level])
        if level + 1 < len(levels):
            waiting.append(channels * positions[level + 1])
    block(levels[-1], channels, channels, attends=True)
    for level in reversed(levels):
        for _ in range(config.num_res_blocks + 1):
            joined = channels + waiting.pop() // positions[level]
            block(level, joined, widths[level], attends=config.apply_attention[level], parts=joined)
            channels = widths[level]
    images = 13 * max(config.input_channels, config.output_channels) * height * width
    return 4 * (most + images)
