"""``alphabar evaluate``: numbers about a trained model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.base import storage
from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.base.registry import Registry
from alphabar.base.version import __version__
from alphabar.cli.console import duration, progress, say
from alphabar.cli.model import open_model
from alphabar.data.batch import Images, split
from alphabar.data.sources import open_source
from alphabar.evaluation.dataset import dataset_bound
from alphabar.evaluation.likelihood import Bound, mean_and_error
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain
from alphabar.runtime.config import from_tables, read_toml
from alphabar.weights import checkpoint

__all__ = ["bits_per_dim", "bound_lines", "held_out_images", "measure_bound", "run"]

BATCH = 64


def run(
    path: Path,
    *,
    metrics: str,
    n: int | None,
    hops: int | None,
    data: str | None,
    weights: str,
    seed: int,
    as_json: bool,
) -> None:
    """The command."""
    for name in metrics.split(","):
        METRICS[name.strip()]
    if n is not None and n < 1:
        raise ConfigError(f"--n: need at least 1 image, got {n}")
    folder, denoiser, digest = open_model(path, weights)
    results = checkpoint.output_folder(folder)
    images = held_out_images(folder, data, denoiser.shape)
    images = images.subset(np.arange(min(n or len(images), len(images))))
    bound = measure_bound(denoiser, images, seed=seed, hops=hops, quiet=as_json)
    result = {
        **bits_per_dim(bound),
        "card": {
            "alphabar": __version__,
            "torch": torch.__version__,
            "model": str(folder),
            "weights": weights,
            "weights_sha256": digest,
            "images": images.name,
            "images_fingerprint": images.fingerprint,
            "n": len(images),
            "chain": f"all {denoiser.schedule.T} steps" if hops is None else f"{hops} stratified hops per image",
            "seed": seed,
        },
    }
    storage.write_json(results / "evaluation" / f"bpd-{folder.resolve().name}-{weights}.json", result)
    if as_json:
        print(json.dumps(result))
        return
    for line in bound_lines(result):
        say(line)


def held_out_images(folder: Path, data: str | None, shape: tuple[int, int, int]) -> Images:
    """The images of ``data``, or those that the run of the checkpoint ``folder`` kept from training.

    Raises:
        ConfigError: if there are none, or the model is not of a run.
        DataError: if the images are of another shape, or no longer those that the run was trained on.
    """
    where = printable(folder)
    if data is not None:
        images = open_source(data, shape[1] if shape[1] == shape[2] else None)
    else:
        file = checkpoint.output_folder(folder) / "config.toml"
        if not file.exists():
            raise ConfigError(f"{where}: is not of a run, so it has no held-out images; give --data SOURCE")
        config = from_tables(read_toml(file))
        train, images = split(open_source(config.data.source, config.data.size), config.seed, config.data.held_out)
        if train.fingerprint != storage.read_json(folder / "state.json")["data"]:
            raise DataError(
                f"{where}: the images changed since it was trained, so none is surely unseen; give --data SOURCE"
            )
        if not len(images):
            raise ConfigError(f"{where}: held out no images; give --data SOURCE")
    if images.shape != shape:
        raise DataError(
            f"{printable(images.name)}: images are {images.shape}, the model makes {shape}; give others to --data"
        )
    return images


def measure_bound(
    denoiser: Denoiser, images: Images, *, seed: int = 0, hops: int | None = None, quiet: bool = False
) -> Bound:
    """The bound of every image, with the time it will take said after the first batch."""
    chain = Chain.full(denoiser.schedule)
    parts: list[Bound] = []
    began = time.monotonic()
    if quiet:
        return Bound.cat(list(dataset_bound(denoiser, images, chain, seed=seed, hops=hops, batch=BATCH)))
    with progress(len(images), "image") as bar:
        for part in dataset_bound(denoiser, images, chain, seed=seed, hops=hops, batch=BATCH):
            parts.append(part)
            done = min(len(parts) * BATCH, len(images))
            if len(parts) == 1 and done < len(images):
                bar.say(f"about {duration((time.monotonic() - began) * (len(images) - done) / done)} to go")
            bar.update(done)
    return Bound.cat(parts)


def bits_per_dim(bound: Bound) -> dict[str, Any]:
    """The bound and its three parts in bits per dimension, each with its standard error over images."""
    scale = bound.dims * np.log(2)
    parts = {
        "bits_per_dim": bound.bits_per_dim,
        "prior_bits_per_dim": bound.prior_nats / scale,
        "terms_bits_per_dim": (bound.nats - bound.prior_nats - bound.decoder_nats) / scale,
        "decoder_bits_per_dim": bound.distortion,
    }
    result: dict[str, Any] = {}
    for name, values in parts.items():
        mean, error = mean_and_error(values)
        result[name] = mean
        result[f"{name}_standard_error"] = error if np.isfinite(error) else None
    return result


def bound_lines(result: dict[str, Any]) -> list[str]:
    """The bound for people, with its card."""
    names = {
        "bits_per_dim": "bits/dim",
        "prior_bits_per_dim": "  L_T",
        "terms_bits_per_dim": "  L_1 … L_{T-1}",
        "decoder_bits_per_dim": "  L_0",
    }
    lines = []
    for key, name in names.items():
        error = result[f"{key}_standard_error"]
        spread = "" if error is None else f" ± {error:.2g}"
        digits = 4 if key == "bits_per_dim" else 5
        lines.append(f"{name:<16} {result[key]:.{digits}f}{spread}")
    card = result["card"]
    lines.append(
        f"                 {card['n']} images of {printable(card['images'])}, {card['weights']} weights "
        f"{card['weights_sha256'][:12]}, {card['chain']}, seed {card['seed']}"
    )
    return lines


METRICS: Registry[str] = Registry("metrics", {"bpd": "the variational bound in bits per dimension"})
