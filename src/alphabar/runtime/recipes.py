"""Sensible settings for images nobody has trained on yet: a function of their size, channels and number.

The result is a table of settings like that of a config file, so that a preset, a file or ``key=value`` may overrule it.
"""

from __future__ import annotations

from typing import Any

import torch

from alphabar.base.errors import ConfigError

__all__ = ["for_length", "has_bf16", "recipe"]

SMALLEST_SIDE = 4
MOST_LEVELS = 6
ATTEND_UP_TO = 16
MOST_PADDING = 1.15
THIN_ABOVE = 16
LIGHT_SIDE = 32
MOST_PATCH = 4
MULTIPLES = {1: [1], 2: [1, 2], 3: [1, 2, 2], 4: [1, 2, 2, 4], 5: [1, 1, 2, 2, 4], 6: [1, 1, 2, 2, 4, 4]}


def has_bf16() -> bool:
    """Whether this machine multiplies in bfloat16 natively (a CPU with AVX512-BF16 or AMX, or a GPU that has it)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def for_length(steps: int, batch: int) -> dict[str, dict[str, int]]:
    """The settings that follow from the length of a run: warm-up, half-life of the EMA, previews and checkpoints."""
    return {
        "optim": {"warmup_steps": max(1, min(steps // 20, 2000))},
        "ema": {"halflife_images": max(batch, min(steps * batch // 20, 887_000))},
        "run": {"preview_every": min(-(-steps // 10), 1000), "save_every": min(-(-steps // 20), 1000)},
    }


def _levels(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """The sides of the images at each resolution, in patches of ``patch`` × ``patch`` pixels."""
    sides = [(-(-height // patch), -(-width // patch))]
    while len(sides) < MOST_LEVELS:
        half = _reduced(height, width, patch * 2 ** len(sides))
        if half is None:
            break
        sides.append(half)
    return sides


def _reduced(height: int, width: int, factor: int) -> tuple[int, int] | None:
    """The sides divided by ``factor`` and padded where that is little; None where it is not, or too few are left."""
    rows, columns = -(-height // factor), -(-width // factor)
    padded = rows * columns * factor**2 / (height * width)
    return None if min(rows, columns) < SMALLEST_SIDE or padded > MOST_PADDING else (rows, columns)


def _patch(height: int, width: int, tiny: bool) -> int:
    """1 up to 32 pixels a side, 2 up to 64, then 4, as far as the patches still halve once; 2 for tiny images."""
    if tiny:
        return 2 if min(height, width) >= 2 * SMALLEST_SIDE and _reduced(height, width, 2) is not None else 1
    patch = 1
    while patch < MOST_PATCH and max(height, width) > LIGHT_SIDE * patch and len(_levels(height, width, 2 * patch)) > 1:
        patch *= 2
    return patch


def _light_widths(sides: list[tuple[int, int]], patch: int) -> tuple[int, list[int]]:
    """Channels of a light network at the first resolution, and what they are multiplied by at each.

    Where the first one has more than 16 positions a side, of few pixels each, it has half the channels of the others:
    there is most to compute, and little in each position that they do not hold.
    """
    levels = len(sides)
    if levels > 1 and patch < MOST_PATCH and max(sides[0]) > THIN_ABOVE:
        return 16, [1, *(2 * multiple for multiple in MULTIPLES[levels - 1])]
    return 32, MULTIPLES[levels]


def recipe(shape: tuple[int, int, int], count: int, *, light: bool | None = None) -> dict[str, Any]:
    """Settings for ``count`` images of ``shape`` (C, H, W).

    The network predicts v on a cosine schedule: at equal time its samples are by far nearer to the data than with ε on
    the linear schedule (docs/results/quality-per-minute.md). It halves the image while both sides stay at least 4, and
    pads odd ones where that adds at most 15 % of pixels. It attends where a side has 16 pixels or fewer, unless the
    bottleneck's attention is enough. A tenth of the images, at most 1,000, is held out.

    ``light`` is for processors, and the default where there is no GPU: a network of about a million weights, thin where
    there are many pixels and on patches where there are more, in small batches, so that the time goes into steps, and
    Muon, which makes the most of each. Images of at most 12 pixels a side get a light network anywhere, on patches of
    2×2 with twice the channels where they divide.

    Raises:
        ConfigError: if there are none.
    """
    channels, height, width = shape
    if count < 1:
        raise ConfigError(f"data: got {count} images; give at least one, to choose settings for")
    if light is None:
        light = not torch.cuda.is_available()
    side = max(height, width)
    tiny, small, few = side <= 12, side <= 40, count < 1000
    slim = light or tiny
    patch = _patch(height, width, tiny) if slim else 1
    sides = _levels(height, width, patch)
    factor = patch * 2 ** (len(sides) - 1)
    base, multiples = 64, MULTIPLES[len(sides)]
    if not slim:
        base = 32 if small and few else 64 if small or few else 128
    elif patch == 1 or not tiny:
        base, multiples = _light_widths(sides, patch)
    batch = 32 if slim and not tiny else 128 if small else 64 if side <= 80 else 16
    # enough to see every image about 150 times, between half a million and a hundred million images
    steps = max(500_000, min(150 * count, 100_000_000)) // batch
    length = for_length(steps, batch)
    return {
        "data": {"held_out": min(count // 10, 1000)},
        "schedule": {"kind": "cosine", "T": 1000},
        "denoiser": {"prediction": "v", "variance": "fixed_small"},
        "net": {
            "input_channels": channels,
            "output_channels": channels,
            "base_channels": base,
            "base_channels_multiples": multiples,
            "apply_attention": [not slim and max(s) <= ATTEND_UP_TO for s in sides],
            "num_res_blocks": 1 if slim else 2,
            "dropout_rate": 0.0 if slim else 0.1,
            "channel_dropout": False,
            "small_init": True,
            "total_time_steps": "none",
            "pad_input": bool(height % factor or width % factor),
            "patch_size": patch,
        },
        "objective": {"kind": "min_snr" if tiny else "simple"},
        "times": {"kind": "uniform", "stratified": True},
        "optim": {
            "optimizer": "muon" if slim else "adamw",
            "lr": 4e-3 if slim else 5e-4 if small else 2e-4,
            "rate": "cosine",
            **length["optim"],
        },
        "ema": length["ema"],
        "run": {
            **length["run"],
            "batch": batch,
            "steps": steps,
            "precision": "bf16" if has_bf16() and not tiny else "fp32",
        },
    }
