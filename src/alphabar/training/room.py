"""Whether a training step fits into memory, and what to do where it does not."""

from __future__ import annotations

import torch

from alphabar.base.errors import OutOfMemory
from alphabar.base.memory import available_memory
from alphabar.model.cost import memory_per_image_trained, without_values
from alphabar.training.config import RunConfig

__all__ = ["advice", "at", "check_room"]

OF_WEIGHTS = 7  # copies: themselves, average, gradient, moments, what Muon makes of these in a step

BESIDE = 3 * 10**8  # bytes for previews, kernels' buffers and a checkpoint that is being written, as measured


def at(config: RunConfig) -> str:
    """How many images a step takes at once, in words."""
    micro = config.run.micro_batch
    return f"batch {config.run.batch}" if micro is None else f"micro-batch {micro}"


def advice(config: RunConfig, fits: int | None) -> str:
    """What helps where memory does not suffice: the micro-batch that ``fits``, if one does."""
    if fits:
        return f"--micro-batch {fits} fits and gives the same updates"
    if config.run.activation_checkpointing:
        return "use a smaller network or image"
    return "use run.activation_checkpointing=true, or a smaller network or image"


def check_room(config: RunConfig, shape: tuple[int, int, int], device: torch.device) -> None:
    """Raise where a step on images of this ``shape`` (C, H, W) takes more of a processor's memory than is free.

    Whoever takes more than there is may be killed instead of refused (:func:`available_memory`), so it is estimated
    before it is tried: what is held of the weights and beside them, and what :func:`memory_per_image_trained` says of
    each image. To be asked before the network is built, since a process may keep what it has freed. The micro-batch
    that the error names is the largest half, quarter, … of the batch that leaves half of the free memory free, or one
    image.

    Raises:
        OutOfMemory: if it does not fit.
        ConfigError: if the network does not fit the images.
    """
    free = available_memory(device)
    if free is None:
        return
    config.net.check_size(*shape[1:])
    each = memory_per_image_trained(config.net, *shape[1:], checkpointing=config.run.activation_checkpointing)
    always = BESIDE + OF_WEIGHTS * 4 * sum(p.numel() for p in without_values(config.net).parameters())
    size = config.run.micro_batch or config.run.batch
    if always + size * each <= free:
        return
    fits = size
    while fits > 1 and always + fits * each > free / 2:
        fits = -(-fits // 2)
    found = fits if always + fits * each <= free else None
    facts = f"a step takes about {(always + size * each) / 1e9:.2g} GB, {free / 1e9:.2g} GB are free"
    raise OutOfMemory(f"too little memory for {at(config)}: {facts}; {advice(config, found)}", found)
