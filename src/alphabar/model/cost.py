"""What one network call costs for one image, from the shape of the network alone."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet, UNetConfig

__all__ = ["flops_per_image", "memory_per_image"]


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


def memory_per_image(config: UNetConfig, height: int, width: int) -> int:
    """About how many bytes a forward pass without gradients holds for one image at the most, in float32.

    That is what waits for the decoder, and what the block at work holds: what enters it, in the decoder also the two
    parts that were joined to enter it; that normalised, before and after its nonlinearity; or three of what leaves it.
    What kernels need beside their inputs and outputs is not counted.
    """
    rows, columns = (config.padded(side) // config.patch_size for side in (height, width))
    levels = len(config.base_channels_multiples)
    positions = [(rows >> level) * (columns >> level) for level in range(levels)]
    widths = [config.base_channels * multiple for multiple in config.base_channels_multiples]
    channels = config.base_channels
    waiting = [channels * positions[0]]
    most = 0

    def block(level: int, entering: int, leaving: int, parts: int = 0) -> None:
        nonlocal most
        at_work = (parts + entering + max(2 * entering, entering + leaving, 3 * leaving)) * positions[level]
        most = max(most, sum(waiting) + at_work)

    for level in range(levels):
        for _ in range(config.num_res_blocks):
            block(level, channels, widths[level])
            channels = widths[level]
            waiting.append(channels * positions[level])
        if level + 1 < levels:
            waiting.append(channels * positions[level + 1])
    for level in reversed(range(levels)):
        for _ in range(config.num_res_blocks + 1):
            joined = channels + waiting.pop() // positions[level]
            block(level, joined, widths[level], parts=joined)
            channels = widths[level]
    return 4 * most
