"""``alphabar sample``: images from a trained model."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.choice import describe, from_table
from alphabar.base.errors import CheckpointError, ConfigError, StorageError, printable
from alphabar.base.pixels import to_uint8
from alphabar.base.version import __version__
from alphabar.cli.console import duration, progress, say
from alphabar.cli.model import open_model
from alphabar.evaluation.pictures import enlarge, grid, png, write_animation, write_png
from alphabar.model.denoiser import Clip, Denoiser
from alphabar.model.network import unet
from alphabar.model.variance import VARIANCES, FixedLarge, FixedSmall, Learned
from alphabar.process.chain import Chain
from alphabar.runtime.config import override
from alphabar.samplers import SAMPLERS, Ancestral, Sampler
from alphabar.samplers.generate import frames
from alphabar.weights import checkpoint

__all__ = ["DEFAULT_STEPS", "class_labels", "parse_seeds", "prepare", "run", "write_samples"]

DEFAULT_STEPS = 100
BATCH = 64
ANIMATED_IMAGES = 36
ANIMATED_FRAMES = 60


def run(
    path: Path,
    settings: Sequence[str],
    *,
    n: int | None,
    seeds: str | None,
    sampler: str,
    steps: int | None,
    weights: str,
    out: Path | None,
    animate: bool,
) -> None:
    """The command."""
    numbers = parse_seeds(n, seeds)
    folder, denoiser, digest = open_model(path, weights)
    rule, chain, denoiser = prepare(denoiser, sampler, steps, settings)
    if out is None:
        named = [folder.resolve().name, sampler, str(len(chain)), *settings, weights, f"{numbers[0]}-{numbers[-1]}"]
        out = checkpoint.output_folder(folder) / "samples" / re.sub(r"[^\w.=-]", "_", "-".join(named))
    check_output(out)
    facts = {
        "alphabar": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": str(folder),
        "weights": weights,
        "weights_sha256": digest,
        **{key: checkpoint.describe_model(denoiser)[key] for key in ("schedule", "prediction")},
        "sampler": describe(SAMPLERS, rule),
        "variance": VARIANCES.name_of(denoiser.variance),
        "clip": None if denoiser.clip is None else denoiser.clip.limit,
        "times": list(chain.times),
        "rounding": "nearest of 256 levels",
    }
    write_samples(denoiser, rule, chain, numbers, out, facts, animate=animate)
    say(f"wrote        {len(numbers)} images and grid.png to {printable(out)} ({weights} weights, {len(chain)} steps)")


def parse_seeds(n: int | None, seeds: str | None) -> list[int]:
    """The seeds that ``-n`` or ``--seeds A-B`` ask for.

    Raises:
        ConfigError: if they ask for none, or for both.
    """
    if n is not None and seeds is not None:
        raise ConfigError("-n and --seeds: give one of them")
    if seeds is None:
        count = 64 if n is None else n
        if not 1 <= count <= 10_000_000:
            raise ConfigError(f"-n: need at least 1 image (and at most 10,000,000), got {count}")
        return list(range(count))
    match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", seeds)
    if match is None:
        raise ConfigError(f"--seeds: got {printable(seeds)!r}, need A-B such as 0-63, or one number")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last - first >= 10_000_000:
        raise ConfigError(f"--seeds: {first}-{last} must rise and hold at most 10,000,000 seeds")
    return list(range(first, last + 1))


def prepare(
    denoiser: Denoiser, sampler: str, steps: int | None, settings: Sequence[str] = (), *, quiet: bool = False
) -> tuple[Sampler, Chain, Denoiser]:
    """The update rule, the chain, and the denoiser with the conventions that ``settings`` ask for.

    ``settings`` are ``sampler.<field>=…``, ``chain.spacing=…``, ``denoiser.variance=…`` and ``denoiser.clip=…``.

    Raises:
        ConfigError: for anything else, or a value out of range.
    """
    tables = override({}, settings)
    for section, table in sorted(tables.items()):
        if section not in ("sampler", "chain", "denoiser"):
            raise ConfigError(f"{printable(section)}: unknown section; sample takes sampler.*, chain.*, denoiser.*")
        if not isinstance(table, dict):
            raise ConfigError(f"{printable(section)}: must be a section with keys, e.g. {printable(section)}.key=value")
    for section, allowed in (("chain", {"spacing"}), ("denoiser", {"variance", "clip"})):
        unknown = set(tables.get(section, {})) - allowed
        if unknown:
            raise ConfigError(
                f"{section}.{printable(unknown.pop())}: unknown key; allowed are {', '.join(sorted(allowed))}"
            )
    rule: Sampler = from_table(SAMPLERS[sampler], tables.get("sampler", {}), "sampler")
    T = denoiser.schedule.T
    chain = Chain.spaced(
        denoiser.schedule,
        _default_steps(denoiser, rule) if steps is None else steps,
        tables.get("chain", {}).get("spacing", "uniform"),
    )
    conventions: dict[str, Any] = tables.get("denoiser", {})
    if "variance" in conventions:
        variance = VARIANCES[conventions["variance"]]()
        if variance.channels != denoiser.variance.channels:
            raise ConfigError(
                f"denoiser.variance: the network was trained with {VARIANCES.name_of(denoiser.variance)}; "
                "only the two fixed kinds can stand in for each other"
            )
        denoiser.variance = variance
    elif isinstance(rule, Ancestral) and isinstance(denoiser.variance, FixedLarge) and len(chain) < T:
        denoiser.variance = FixedSmall()
        if not quiet:
            say(
                f"note         sigma^2 = beta leaves noise on a chain of {len(chain)} of {T} steps: using beta-tilde "
                "(denoiser.variance=fixed_large keeps it)"
            )
    if "clip" in conventions:
        limit = conventions["clip"]
        denoiser.clip = None if limit == "none" else from_table(Clip, {"limit": limit}, "denoiser.clip")
    return rule, chain, denoiser


def _default_steps(denoiser: Denoiser, rule: Sampler) -> int:
    """100, or all T where the variance was learned for single steps only."""
    T = denoiser.schedule.T
    return T if isinstance(rule, Ancestral) and isinstance(denoiser.variance, Learned) else min(DEFAULT_STEPS, T)


def class_labels(denoiser: Denoiser, seeds: Sequence[int]) -> Tensor | None:
    """Labels int64 [N] for a network with classes: seed modulo the number of classes. None without classes."""
    classes = unet(denoiser).config.num_classes
    return torch.tensor([seed % classes for seed in seeds]) if classes else None


def check_output(out: Path) -> None:
    """Refuse a folder that holds anything but samples of ours.

    Raises:
        ConfigError: if ``out`` is a file.
        StorageError: if it is a folder of something else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{printable(out)}: is a file; give a folder to --out")
    if out.is_dir() and any(out.iterdir()) and not _is_samples(out):
        raise StorageError(f"{printable(out)}: holds other files; give a new folder to --out")


def _is_samples(out: Path) -> bool:
    try:
        manifest = storage.read_json(out / "manifest.json")
    except CheckpointError:
        return False
    return isinstance(manifest, dict) and "seeds" in manifest


def write_samples(
    denoiser: Denoiser,
    sampler: Sampler,
    chain: Chain,
    seeds: Sequence[int],
    out: Path,
    facts: dict[str, Any],
    *,
    animate: bool = False,
) -> Tensor:
    """Sample, and write ``00000.png`` …, ``grid.png``, ``manifest.json`` and the animation; returns uint8 [N, C, H, W].

    Images of other than 1, 3 or 4 channels are written as one ``samples.npy`` instead.

    Raises:
        StorageError: if the disk refuses.
    """
    labels = class_labels(denoiser, seeds)
    kept: list[Tensor] = []
    shown: list[Tensor] = []
    every = max(1, len(chain) // ANIMATED_FRAMES)
    batches = range(0, len(seeds), BATCH)
    began = time.monotonic()
    with progress(len(batches) * len(chain), "hop") as bar:
        for number, start in enumerate(batches):
            part = slice(start, start + BATCH)
            last: Tensor | None = None
            some = None if labels is None else labels[part]
            for hop, frame in enumerate(frames(denoiser, sampler, chain, seeds[part], some)):
                last = frame.x
                if animate and start == 0 and (hop % every == 0 or frame.t == 0):
                    shown.append(grid(enlarge(to_uint8(frame.x[:ANIMATED_IMAGES].cpu()), 48)))
                bar.update(number * len(chain) + hop + 1, f"{start + len(seeds[part])}/{len(seeds)} images")
            assert last is not None
            kept.append(to_uint8(last).cpu())
    images = torch.cat(kept)
    # the manifest comes first, so that a folder that was interrupted is still known as ours
    manifest = {**facts, "seeds": list(seeds), "labels": None if labels is None else labels.tolist()}
    storage.write_json(out / "manifest.json", {**manifest, "complete": False})
    with storage.storage_errors(out):
        for old in out.glob("[0-9][0-9][0-9][0-9][0-9]*.png"):
            old.unlink()
    if images.shape[1] in (1, 3, 4):
        for number, image in enumerate(images):
            with storage.storage_errors(out):
                (out / f"{number:05d}.png").write_bytes(png(image))
        write_png(out / "grid.png", grid(enlarge(images[:400])))
        if animate:
            write_animation(out / "denoising.gif", shown)
            write_animation(out / "denoising.webp", shown)
    else:
        with storage.storage_errors(out):
            np.save(out / "samples.npy", images.numpy())
        say(f"note         {images.shape[1]} channels have no picture format: wrote samples.npy, uint8 [N, C, H, W]")
    storage.write_json(out / "manifest.json", {**manifest, "complete": True})
    say(f"sampled      {len(seeds)} images in {duration(time.monotonic() - began)}")
    return images
