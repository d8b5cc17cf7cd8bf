"""``alphabar sample``: images from a trained model."""

from __future__ import annotations

import copy
import dataclasses
import io
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from alphabar.base import storage
from alphabar.base.choice import describe, from_table
from alphabar.base.errors import CheckpointError, ConfigError, StorageError, printable
from alphabar.base.pixels import Units, to_uint8
from alphabar.base.version import __version__
from alphabar.cli.console import Bar, duration, progress, say
from alphabar.cli.model import open_model
from alphabar.evaluation.pictures import enlarge, grid, png, write_animation, write_png
from alphabar.model.denoiser import Clip, Denoiser
from alphabar.model.network import unet
from alphabar.model.variance import VARIANCES, FixedSmall, Learned
from alphabar.process.chain import Chain
from alphabar.runtime.config import override
from alphabar.samplers import SAMPLERS, Sampler, network_calls
from alphabar.samplers.generate import frames, in_batches, leaves_noise
from alphabar.weights import checkpoint

__all__ = ["class_labels", "parse_seeds", "prepare", "run", "write_samples"]

FEW, FULL = "dpmpp_2m_sde", "ancestral"
DEFAULT_STEPS = 100
TINY_SIDE, FEW_STEPS = 16, 25  # larger images than tiny ones are slow enough to take fewer steps
BATCH = 64
ANIMATED_IMAGES = 36
ANIMATED_FRAMES = 60


def run(
    path: Path,
    settings: Sequence[str],
    *,
    n: int | None,
    seeds: str | None,
    sampler: str | None,
    steps: int | None,
    weights: str,
    out: Path | None,
    animate: bool,
) -> None:
    """The command."""
    numbers = parse_seeds(n, seeds)
    folder, denoiser, digest = open_model(path, weights)
    rule, chain, denoiser = prepare(denoiser, sampler, steps, settings)
    described = describe(SAMPLERS, rule)
    if out is None:
        kind = str(described["kind"])
        named = [folder.resolve().name, kind, str(len(chain)), *settings, weights, f"{numbers[0]}-{numbers[-1]}"]
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
        "sampler": described,
        "variance": VARIANCES.name_of(denoiser.variance),
        "clip": None if denoiser.clip is None else denoiser.clip.limit,
        "times": list(chain.times),
        "rounding": "nearest of 256 levels",
        "units": None if denoiser.units is None else dataclasses.asdict(denoiser.units),
    }
    write_samples(denoiser, rule, chain, numbers, out, facts, animate=animate)
    calls = network_calls(rule, chain)
    steps_taken = f"{len(chain)} steps" if calls == len(chain) else f"{len(chain)} steps, {calls} network calls"
    say(f"wrote        {len(numbers)} images and grid.png to {printable(out)} ({weights} weights, {steps_taken})")


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
    denoiser: Denoiser, sampler: str | None, steps: int | None, settings: Sequence[str] = (), *, quiet: bool = False
) -> tuple[Sampler, Chain, Denoiser]:
    """The update rule, the chain, and a copy of the denoiser, sharing its weights, with the conventions asked for.

    Without a ``sampler`` it is the paper's, and below 100 steps the one that loses least in few (docs/samplers.md);
    without ``steps``, 100; without either, 100 for images of at most 16 pixels a side and 25 for others. For those
    others, fewer than 100 steps have the spacing that the rule names for them; all other chains are even in t.
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
    denoiser = copy.copy(denoiser)
    conventions: dict[str, Any] = tables.get("denoiser", {})
    name, hops = _choose(denoiser, sampler, steps, names_variance="variance" in conventions)
    rule: Sampler = from_table(SAMPLERS[name], tables.get("sampler", {}), "sampler")
    spacing = rule.few_steps if hops < DEFAULT_STEPS and not _tiny(denoiser) else "uniform"
    chain = Chain.spaced(denoiser.schedule, hops, tables.get("chain", {}).get("spacing", spacing))
    if "variance" in conventions:
        variance = VARIANCES.named(conventions["variance"], "denoiser.variance")()
        if variance.channels != denoiser.variance.channels:
            raise ConfigError(
                f"denoiser.variance: the network was trained with {VARIANCES.name_of(denoiser.variance)}; "
                "only the two fixed kinds can stand in for each other"
            )
        denoiser.variance = variance
    elif leaves_noise(denoiser, rule, chain):
        denoiser.variance = FixedSmall()
        if not quiet:
            say(
                f"note         sigma^2 = beta leaves noise on a chain of {len(chain)} of {denoiser.schedule.T} steps: "
                "using beta-tilde (denoiser.variance=fixed_large keeps it)"
            )
    if "clip" in conventions:
        limit = conventions["clip"]
        denoiser.clip = None if limit == "none" else from_table(Clip, {"limit": limit}, "denoiser.clip")
    return rule, chain, denoiser


def _choose(denoiser: Denoiser, sampler: str | None, steps: int | None, *, names_variance: bool) -> tuple[str, int]:
    """The sampler and the number of steps: what was named, and for the rest what `prepare` says.

    A variance that was learned is right for single steps only, so that a sampler which takes it walks all T. Whoever
    names a variance wants a sampler that has one.
    """
    T, learned = denoiser.schedule.T, isinstance(denoiser.variance, Learned)
    if sampler is None and not names_variance:
        if steps is None and not _tiny(denoiser) and not learned:
            steps = min(FEW_STEPS, T)
        if steps is not None and steps < min(DEFAULT_STEPS, T):
            sampler = FEW
    name = sampler or FULL
    if steps is None:
        steps = T if SAMPLERS[name].needs_variance and learned else min(DEFAULT_STEPS, T)
    return name, steps


def _tiny(denoiser: Denoiser) -> bool:
    return max(denoiser.shape[1:]) <= TINY_SIDE


def class_labels(denoiser: Denoiser, seeds: Sequence[int]) -> Tensor | None:
    """Labels int64 [N] for a network with classes: seed modulo the number of classes. None without classes."""
    classes = unet(denoiser).config.num_classes
    return torch.tensor([seed % classes for seed in seeds]) if classes else None


def check_output(out: Path) -> None:
    """Refuse, before anything is computed, a folder that holds anything but samples of ours or cannot be written.

    Raises:
        ConfigError: if ``out`` is a file.
        StorageError: if it is a folder of something else, or read-only.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{printable(out)}: is a file; give a folder to --out")
    storage.check_writable(out)
    if out.is_dir() and any(out.iterdir()) and not _is_samples(out):
        raise StorageError(f"{printable(out)}: holds other files; give a new folder to --out")


def _is_samples(out: Path) -> bool:
    try:
        manifest = storage.read_json(out / "manifest.json")
    except CheckpointError:
        return False
    return isinstance(manifest, dict) and "seeds" in manifest


class _Maker:
    """Makes the samples of ``seeds`` in batches, and the frames of an animation from the first few of them."""

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        chain: Chain,
        seeds: Sequence[int],
        labels: Tensor | None,
        bar: Bar,
        *,
        animate: bool,
    ) -> None:
        self.process = denoiser, sampler, chain
        self.seeds, self.labels, self.bar = seeds, labels, bar
        self.animated = range(min(ANIMATED_IMAGES, len(seeds)) if animate else 0)
        self.stills: list[list[Tensor]] = []  # of each batch: its animated images after some of the hops

    def samples(self) -> Tensor:
        """Every sample in the model's range, float32 [N, C, H, W]."""
        return torch.cat(in_batches(self.process[0], self._make, len(self.seeds), BATCH))

    def shown(self) -> list[Tensor]:
        """The frames of the animation."""
        return [grid(enlarge(torch.cat(parts), 48)) for parts in zip(*self.stills, strict=True)]

    def _make(self, rows: range) -> Tensor:
        denoiser, sampler, chain = self.process
        part = slice(rows.start, rows.stop)
        some = None if self.labels is None else self.labels[part]
        every = max(1, len(chain) // ANIMATED_FRAMES)
        stills, last = [], None
        animated = self.animated[part]
        for hop, frame in enumerate(frames(denoiser, sampler, chain, self.seeds[part], some)):
            last = frame.x
            if animated and (hop % every == 0 or frame.t == 0):
                stills.append(to_uint8(frame.x[: len(animated)].cpu()))
            done = rows.start * len(chain) + (hop + 1) * len(rows)
            self.bar.update(done, f"{rows.stop}/{len(self.seeds)} images")
        assert last is not None
        if animated:
            self.stills.append(stills)
        return last.cpu()


def _write_image(path: Path, image: Tensor, sample: Tensor, units: Units | None) -> None:
    """One sample as PNG, and in the values of its data where these are not 8-bit pixels."""
    if units is None:
        storage.write_loose(path, png(image))
        return
    values = units.values(sample)
    if units.dtype == "uint16" and len(values) == 1:
        buffer = io.BytesIO()
        Image.fromarray(values[0]).save(buffer, "PNG")
        storage.write_loose(path, buffer.getvalue())
    else:
        storage.write_loose(path, png(image))
        storage.write_loose(path.with_suffix(".npy"), _npy(values))


def _npy(values: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


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

    Images of other than 1, 3 or 4 channels are written as one ``samples.npy`` instead. A model of data that were not
    8-bit pixels also writes them in the data's own values: as 16-bit grey PNG where they were that, else as ``.npy``.

    Raises:
        StorageError: if the disk refuses.
    """
    labels = class_labels(denoiser, seeds)
    began = time.monotonic()
    with progress(len(seeds) * len(chain), "sampling") as bar:
        maker = _Maker(denoiser, sampler, chain, seeds, labels, bar, animate=animate)
        samples = maker.samples()
    images = to_uint8(samples)
    # the manifest comes first, so that a folder that was interrupted is still known as ours
    manifest = {**facts, "seeds": list(seeds), "labels": None if labels is None else labels.tolist()}
    storage.write_json(out / "manifest.json", {**manifest, "complete": False})
    with storage.storage_errors(out):
        for suffix in ("png", "npy"):
            for old in out.glob(f"[0-9][0-9][0-9][0-9][0-9]*.{suffix}"):
                old.unlink()
    if images.shape[1] in (1, 3, 4):
        for number, image in enumerate(images):
            _write_image(out / f"{number:05d}.png", image, samples[number], denoiser.units)
        write_png(out / "grid.png", grid(enlarge(images[:400])))
        if animate:
            shown = maker.shown()
            write_animation(out / "denoising.gif", shown)
            write_animation(out / "denoising.webp", shown)
    else:
        values = images.numpy() if denoiser.units is None else denoiser.units.values(samples)
        storage.write_loose(out / "samples.npy", _npy(values))
        say(
            f"note         {images.shape[1]} channels have no picture format: wrote samples.npy, {values.dtype} "
            "[N, C, H, W]"
        )
    storage.write_json(out / "manifest.json", {**manifest, "complete": True})
    say(f"sampled      {len(seeds)} images in {duration(time.monotonic() - began)}")
    return images
