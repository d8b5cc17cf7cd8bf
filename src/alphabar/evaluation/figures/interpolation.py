"""Interpolation between images (Fig. 8): mixed as noisy latents and decoded, instead of mixed as pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.base.errors import ConfigError
from alphabar.base.pixels import to_uint8
from alphabar.base.rng import PerImage, derive
from alphabar.evaluation.figures.base import Figure
from alphabar.evaluation.figures.decode import decode, encode
from alphabar.evaluation.figures.sheet import Sheet
from alphabar.evaluation.figures.subject import Recipe, Subject, Unavailable
from alphabar.model.denoiser import Denoiser
from alphabar.process import equations as eq
from alphabar.process.chain import Chain
from alphabar.samplers.driver import Sampler

__all__ = [
    "INTERPOLATION",
    "LAMBDAS",
    "Pair",
    "default_pairs",
    "interpolate",
    "labels_between",
    "mix_pixels",
    "pair_of",
    "pair_words",
    "usual_time",
]

LAMBDAS = tuple(k / 10 for k in range(11))
PAIRS, DRAWS = 4, 3
SIGNAL = 16


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images uint8 [C, H, W] to go between, the words for them, and their classes if there are any.

    ``kind`` and ``names`` are such as *held-out images* and *3*, *7*.
    """

    a: Tensor
    b: Tensor
    kind: str
    names: tuple[str, str]
    classes: tuple[int, int] | None = None


def mix_pixels(a: Tensor, b: Tensor, lambdas: Sequence[float]) -> Tensor:
    """(1 − λ) a + λ b of two images uint8 [C, H, W] for K values of λ, to the nearest level: uint8 [K, C, H, W]."""
    share = torch.tensor(lambdas, dtype=torch.float64)[:, None, None, None]
    return ((1 - share) * a.double() + share * b.double()).round().to(torch.uint8)


def interpolate(
    denoiser: Denoiser,
    sampler: Sampler,
    chain: Chain,
    a: Tensor,
    b: Tensor,
    t: int,
    lambdas: Sequence[float],
    seed: int,
    y: Tensor | None = None,
) -> Tensor:
    """x̄_t = (1 − λ) x_t + λ x_t′ with x_t ~ q(x_t | a), x_t′ ~ q(x_t | b), decoded: uint8 [K, C, H, W], one per λ.

    ``a`` and ``b`` are uint8 [C, H, W]. Each of the two has its own noise, the same for every λ and t, and the noise
    of the decoding is the same for every λ: λ = 0 and λ = 1 decode one image alone. t = 0 mixes pixels.
    ``y`` int64 [K] are the labels of a network with classes.

    Raises:
        ConfigError: if the shapes differ, or t is not one of 0 … T.
    """
    if a.shape != b.shape:
        raise ConfigError(f"images: got {list(a.shape)} and {list(b.shape)}; they must be of one shape")
    if t == 0:
        return mix_pixels(a, b, lambdas)
    mixed = _mixed(chain, a, b, t, lambdas, seed)
    rng = PerImage([derive(seed, "decode", t)] * len(lambdas))
    return to_uint8(decode(denoiser, sampler, chain, mixed, t, rng, y))


def _mixed(chain: Chain, a: Tensor, b: Tensor, t: int, lambdas: Sequence[float], seed: int) -> Tensor:
    """The latents x̄_t, float32 [K, C, H, W]."""
    if not 1 <= t <= chain.schedule.T:
        raise ConfigError(f"t: got {t}, need 0 … {chain.schedule.T}, a time of the schedule")
    x_a, x_b = encode(chain, a, t, derive(seed, "a")), encode(chain, b, t, derive(seed, "b"))
    return torch.stack([(1 - share) * x_a + share * x_b for share in lambdas])


def labels_between(subject: Subject, pair: Pair, lambdas: Sequence[float]) -> Tensor | None:
    """The class of the nearer image for each λ, int64 [K]; None for a network without classes."""
    if not subject.classes:
        return None
    if pair.classes is None or subject.label is not None:
        return subject.labels([0] * len(lambdas))
    return torch.tensor([pair.classes[share > 0.5] for share in lambdas])


def default_pairs(subject: Subject, count: int = PAIRS) -> list[Pair]:
    """Images 0 and 1, 2 and 3, … of the held-out (else training) images, of different classes where they have some.

    Raises:
        Unavailable: if there are not two images.
    """
    images, _ = subject.some_images
    if len(images) < 2:
        raise Unavailable(f"needs two images, there is {len(images)}: give more with --data SOURCE")
    pairs: list[Pair] = []
    left = list(range(min(len(images), 16 * count)))
    while len(left) >= 2 and len(pairs) < count:
        i = left.pop(0)
        other = (j for j in left if images.labels is None or images.labels[i] != images.labels[j])
        j = next(other, left[0])
        left.remove(j)
        pairs.append(pair_of(subject, i, j))
    return pairs


def pair_of(subject: Subject, i: int, j: int) -> Pair:
    """Images ``i`` and ``j`` of the held-out (else training) images.

    Raises:
        Unavailable: if there are no images.
        ConfigError: if an index is out of range.
    """
    images, words = subject.some_images
    for index in (i, j):
        if not 0 <= index < len(images):
            raise ConfigError(f"image {index}: there are {len(images)} {words} images, 0 to {len(images) - 1}")
    a, b = images.gather(torch.tensor([i, j]).numpy()).x
    classes = None if images.labels is None else (int(images.labels[i]), int(images.labels[j]))
    return Pair(a, b, f"{words} images", (str(i), str(j)), classes)


def pair_words(pairs: Sequence[Pair]) -> str:
    """Such as *Held-out images 0 and 1, 2 and 3*, for pairs of one kind."""
    names = ", ".join(dict.fromkeys(f"{one.names[0]} and {one.names[1]}" for one in pairs))
    return f"{pairs[0].kind[:1].upper()}{pairs[0].kind[1:]} {names}"


def usual_time(subject: Subject) -> int:
    """The first time at which the signal-to-noise ratio is at most 16 over the side of the image.

    That is near the paper's t = 500 for 256×256 pixels; a small image has fewer pixels to tell its features by, and
    loses them sooner.
    """
    ratio = eq.snr(subject.chain.schedule.alpha_bar[1:])
    assert isinstance(ratio, Tensor)
    enough = ratio <= SIGNAL / max(subject.denoiser.shape[1:])
    return int(enough.double().argmax()) + 1 if enough.any() else subject.T


def make(subject: Subject, *, pair: Pair | None = None, t: int | None = None) -> Figure:
    """Several pairs, or one pair with several draws of the noise; below, the same pairs mixed as pixels."""
    t = usual_time(subject) if t is None else t
    pairs = default_pairs(subject) if pair is None else [pair]
    chosen = pairs if pair is None else pairs * DRAWS
    decoded = [_decoded(subject, one, t, subject.seed + number) for number, one in enumerate(chosen)]
    pixels = [mix_pixels(one.a, one.b, LAMBDAS) for one in pairs]
    word = "pair" if pair is None else "noise"
    count = len(LAMBDAS)
    sheet = Sheet(
        rows=[[one.a, *row, one.b] for one, row in zip([*chosen, *pairs], [*decoded, *pixels], strict=True)],
        columns=["image", *(f"{share:g}" for share in LAMBDAS), "image"],
        left=[
            *(f"{word} {number + 1}" for number in range(len(chosen))),
            *(f"pixels {number + 1}" if pair is None else "pixels" for number in range(len(pairs))),
        ],
        heads=[(1, count, "λ: share of the right image  →")],
        breaks=[0, count],
        row_breaks=[len(chosen) - 1],
    )
    draws = "" if pair is None else f", {DRAWS} draws of the noise"
    ratio = float(eq.snr(float(subject.chain.schedule.alpha_bar[t]))) if t else math.inf
    return Figure(
        "interpolation",
        f"Interpolation between images, mixed at t = {t}",
        f"Upper rows: both outer images are noised to t = {t} (signal-to-noise ratio {ratio:.2g}), the two noisy "
        "images are mixed with shares 1 − λ and λ, and the reverse process decodes the mixture; λ = 0 and λ = 1 are "
        "the decoded images themselves. All noise is the same along a row. Lower rows: the pixels of the same images "
        f"mixed directly, for comparison. {pair_words(pairs)}{draws}; {len(subject.chain)} steps for the whole chain, "
        f"seed {subject.seed}. Ho et al. (2020), Fig. 8.",
        sheet.draw,
        arrays={
            "t": torch.tensor(t).numpy(),
            "lambdas": torch.tensor(LAMBDAS, dtype=torch.float64).numpy(),
            "sources": torch.stack([torch.stack([one.a, one.b]) for one in chosen]).numpy(),
            "decoded": torch.stack(decoded).numpy(),
            "pixels": torch.stack(pixels).numpy(),
        },
        grids={"grid": sheet.picture()},
    )


def _decoded(subject: Subject, pair: Pair, t: int, seed: int) -> Tensor:
    y = labels_between(subject, pair, LAMBDAS)
    return interpolate(subject.denoiser, subject.sampler, subject.chain, pair.a, pair.b, t, LAMBDAS, seed, y)


INTERPOLATION = Recipe(make, lambda subject: PAIRS * len(LAMBDAS) * len(subject.chain) // 3)
