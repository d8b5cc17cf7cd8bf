"""``alphabar evaluate``: numbers about a trained model, each with the card that says how it was made."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.base.choice import describe
from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.base.registry import Registry
from alphabar.cli.classifier import features_for
from alphabar.cli.console import duration, progress, say
from alphabar.cli.model import Opened, open_model
from alphabar.cli.reading import open_watched
from alphabar.cli.sample import class_labels, prepare
from alphabar.data.batch import Images, split
from alphabar.data.reading import Reading
from alphabar.evaluation.bound_study import BoundStudy
from alphabar.evaluation.card import card_lines, versions
from alphabar.evaluation.classes import matched
from alphabar.evaluation.dataset import dataset_bound, fixed_subset
from alphabar.evaluation.likelihood import Bound
from alphabar.evaluation.parts import key_of
from alphabar.evaluation.sample_study import RealImages, SampleStudy
from alphabar.evaluation.study import Study
from alphabar.evaluation.work import SampleWork, Work, batch_size, conventions
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.process.chain import Chain
from alphabar.runtime.config import RunConfig, from_tables, read_toml
from alphabar.samplers import SAMPLERS
from alphabar.weights import checkpoint

__all__ = ["data_of_run", "held_out_images", "measure_bound", "run"]

SAMPLES = 2048

METRICS: Registry[str] = Registry(
    "metrics",
    {
        "bpd": "the variational bound in bits per dimension",
        "fid": "Fréchet distance of feature moments (FID where the features are Inception's)",
        "kid": "kernel distance, unbiased at any number of samples",
        "is": "Inception Score, by the classes of the feature network",
        "pr": "precision, recall, density and coverage",
        "copies": "samples that look like training images",
    },
)
COMPARED = ("fid", "kid", "pr")


def run(
    path: Path,
    settings: Sequence[str],
    *,
    metrics: str,
    n: int | None,
    hops: int | None,
    data: str | None,
    reference: str | None,
    features: str | None,
    sampler: str | None,
    steps: int | None,
    weights: str,
    seed: int | None,
    as_json: bool,
) -> None:
    """The command."""
    wanted = [name.strip() for name in metrics.split(",")]
    for name in wanted:
        METRICS[name]
    if n is not None and n < 1:
        raise ConfigError(f"--n: need at least 1 image, got {n}")
    of_samples = {"--features": features, "--sampler": sampler, "--steps": steps, "settings": settings or None}
    of_the_bound = {"--hops": hops, "--data": data, "--seed": seed}
    _all_used(of_samples, wanted, [name for name in METRICS if name != "bpd"])
    _all_used(of_the_bound, wanted, ["bpd"])
    _all_used({"--reference": reference}, wanted, COMPARED)
    opened = open_model(path, weights)
    out = checkpoint.output_folder(opened.folder) / "evaluation"
    studies: list[Study] = []
    if "bpd" in wanted:
        images = fixed_subset(held_out_images(opened.folder, data, opened.denoiser, quiet=as_json), n)
        facts = {"weights": opened.weights_sha256}
        studies.append(BoundStudy(opened.denoiser, images, out / "parts", facts, seed=seed or 0, hops=hops))
    scores = [name for name in wanted if name not in ("bpd", "copies")]
    if set(wanted) - {"bpd"}:
        samples = _sample_work(opened, out / "parts", n or SAMPLES, sampler, steps, settings, as_json)
        against = "train" if reference is None else reference
        real = _real_images(opened, against, compare=bool(set(COMPARED) & set(wanted)), copies="copies" in wanted)
        net = features_for(features, real.reference or real.train, samples.denoiser.shape, quiet=as_json)
        studies.append(SampleStudy(samples, net, scores, real, out / "parts"))
    seconds = _work([work for study in studies for work in study.works], quiet=as_json)
    _report(opened, weights, studies, out, seconds, as_json=as_json)


def _all_used(given: Mapping[str, object], wanted: Sequence[str], users: Sequence[str]) -> None:
    """Refuse options that only metrics read which nobody asked for."""
    named = [option for option, value in given.items() if value is not None]
    if named and not set(users) & set(wanted):
        raise ConfigError(
            f"{', '.join(named)}: only for {', '.join(users)}, got --metrics {','.join(wanted)}; add one of them or "
            f"leave {'it' if len(named) == 1 else 'them'} out"
        )


def _sample_work(
    opened: Opened,
    root: Path,
    n: int,
    sampler: str | None,
    steps: int | None,
    settings: Sequence[str],
    quiet: bool,
) -> SampleWork:
    rule, chain, denoiser = prepare(opened.denoiser, sampler, steps, settings, quiet=quiet)
    card = {
        "sampler": describe(SAMPLERS, rule),
        "steps": f"{len(chain)} of {denoiser.schedule.T}",
        **conventions(denoiser),
        "rounding": "nearest of 256 levels",
    }
    facts = {"weights": opened.weights_sha256, "times": list(chain.times), "card": card}
    labels = class_labels(denoiser, range(n))
    return SampleWork(denoiser, rule, chain, n, root, facts, labels)


def _real_images(opened: Opened, reference: str, *, compare: bool, copies: bool) -> RealImages:
    """The images that the wanted numbers compare with; no file is opened for those that need none."""
    needs_run = copies or (compare and reference in ("train", "held-out"))
    train, held_out = data_of_run(opened.folder) if needs_run else (None, None)
    against = None
    if compare:
        of_run = {"train": train, "held-out": held_out}
        against = of_run[reference] if reference in of_run else _others(opened.folder, reference, opened.denoiser)
        if against is not None and len(against) < 2:
            raise DataError(f"--reference {printable(reference)}: {len(against)} images are too few; need at least 2")
    return RealImages(against, train, held_out) if copies else RealImages(against)


def _work(works: Sequence[Work], *, quiet: bool) -> dict[str, float]:
    """Do all of it, after saying how long that will take; returns the seconds estimated and taken."""
    todo = [(work, left) for work in works if (left := work.left())]
    estimated = sum(work.trial() * left for work, left in todo)
    began = time.monotonic()
    if todo and not quiet:
        parts = ", ".join(f"{left:,} {work.name}" for work, left in todo)
        say(f"plan         about {duration(estimated)} here ({parts}); Ctrl-C keeps what is finished")
    try:
        for work, _ in todo:
            _one(work, quiet)
    except KeyboardInterrupt:
        if not quiet:
            say("stopped      finished parts are kept; the same command goes on from them")
        raise
    return {"estimated": round(estimated, 3), "actual": round(time.monotonic() - began, 3)}


def _one(work: Work, quiet: bool) -> None:
    if quiet:
        for _ in work.run():
            pass
        return
    with progress(work.total, work.name, work.total - work.left()) as bar:
        for done in work.run():
            bar.update(done)


def _report(
    opened: Opened, weights: str, studies: Sequence[Study], out: Path, seconds: dict[str, float], *, as_json: bool
) -> None:
    """Write the numbers with their card, and print them."""
    folder = opened.folder
    step = checkpoint.STEP.fullmatch(folder.name)
    card: dict[str, Any] = {
        "model": {
            "name": str(folder),
            "weights": weights,
            "step": int(step[1]) if step else None,
            "sha256": opened.weights_sha256,
        }
    }
    for study in studies:
        card.update(study.card)
    card["versions"] = versions()
    found = [study.numbers() for study in studies]
    numbers = {name: number for part in found for name, number in part.items()}
    # what was measured is no part of the card, by which numbers compare, but one result must not overwrite another
    stem = out / f"{folder.resolve().name}-{weights}-{key_of({**card, 'numbers': sorted(numbers)})}"
    lines = []
    files = []
    for study, part in zip(studies, found, strict=True):
        lines += study.lines(part)
        files += study.write(stem)
    result = {**numbers, "card": {**card, "seconds": seconds}, "files": [file.name for file in files]}
    took = f"{duration(seconds['actual'])}, estimated {duration(seconds['estimated'])}"
    lines += ["", *card_lines({**card, "time": took})]
    storage.write_json(stem.with_suffix(".json"), result)
    storage.write_file(stem.with_suffix(".txt"), ("\n".join(lines) + "\n").encode())
    if as_json:
        print(json.dumps(result))
        return
    for line in lines:
        say(line)
    say(f"wrote        {printable(stem)}.json, .txt{''.join(f', {f.name.removeprefix(stem.name)}' for f in files)}")


def _config_of_run(folder: Path) -> RunConfig | None:
    """The settings of the run that the checkpoint ``folder`` is of; None for a model without a run."""
    file = checkpoint.output_folder(folder) / "config.toml"
    return from_tables(read_toml(file)) if file.exists() else None


def _others(folder: Path, source: str, denoiser: Denoiser) -> Images:
    """Images that the run of the checkpoint ``folder`` was not trained on, read in the way of those that it was."""
    config = _config_of_run(folder)
    reading = Reading() if config is None else config.data.reading()
    _, height, width = denoiser.shape
    units = denoiser.units
    # a square model takes images of any size; other shapes must come as they are
    size = height if height == width else None
    value_range = reading.value_range if units is None else (units.low, units.high)
    return open_watched(source, dataclasses.replace(reading, size=size, value_range=value_range))


def data_of_run(folder: Path) -> tuple[Images, Images]:
    """(train, held-out) images of the run that the checkpoint ``folder`` is of.

    Raises:
        ConfigError: if the model is not of a run.
        DataError: if the images are no longer those that the run was trained on.
    """
    where = printable(folder)
    config = _config_of_run(folder)
    if config is None:
        raise ConfigError(f"{where}: is not of a run, so it has no images; give --data or --reference SOURCE")
    train, held_out = split(open_watched(config.data.source, config.data.reading()), config.seed, config.data.held_out)
    if train.fingerprint != checkpoint.training_state(folder)["data"]:
        raise DataError(
            f"{where}: the images changed since it was trained, so none is surely unseen; give --data or --reference "
            "SOURCE"
        )
    return train, held_out


def held_out_images(folder: Path, data: str | None, denoiser: Denoiser, *, quiet: bool = False) -> Images:
    """The images of ``data``, or those that the run of the checkpoint ``folder`` kept from training.

    Raises:
        ConfigError: if there are none, or the model is not of a run.
        DataError: if the images are of another shape or of classes that the model does not know, or no longer those
            that the run was trained on.
    """
    if data is not None:
        images = _others(folder, data, denoiser)
    else:
        _, images = data_of_run(folder)
        if not len(images):
            raise ConfigError(f"{printable(folder)}: held out no images; give --data SOURCE")
    if images.shape != denoiser.shape:
        raise DataError(
            f"{printable(images.name)}: images are {images.shape}, the model makes {denoiser.shape}; give others to "
            "--data"
        )
    return images if data is None else _in_its_classes(folder, images, denoiser, quiet=quiet)


def _in_its_classes(folder: Path, images: Images, denoiser: Denoiser, *, quiet: bool) -> Images:
    """Other images with the labels of the model at ``folder``; those without labels, or for one without, as they are.

    Raises:
        DataError: if some are of a class that the model does not know.
    """
    classes = unet(denoiser).config.num_classes
    if not classes or images.labels is None:
        return images
    try:
        known, why = data_of_run(folder)[0].class_names, "they have names on one side only"
    except (ConfigError, DataError) as missing:
        known, why = (), f"the names that the model learned are not at hand ({str(missing).partition(';')[0]})"
    relabelled, by_name = matched(images, known, classes)
    if not (by_name or quiet):
        say(f"note         {printable(images.name)}: the numbers of its classes are taken as they are: {why}")
    return relabelled


def measure_bound(denoiser: Denoiser, images: Images, *, seed: int = 0) -> Bound:
    """The bound of every image, all T terms, with progress."""
    chain, batch = Chain.full(denoiser.schedule), batch_size(denoiser.shape)
    parts: list[Bound] = []
    with progress(len(images), "image") as bar:
        for part in dataset_bound(denoiser, images, chain, seed=seed, batch=batch):
            parts.append(part)
            bar.update(min(len(parts) * batch, len(images)))
    return Bound.cat(parts)
