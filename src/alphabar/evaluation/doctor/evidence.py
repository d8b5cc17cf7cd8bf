"""Everything the causes look at, gathered once: files of the run, its images, errors of its weights, fresh samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.device import default_device
from alphabar.base.errors import AlphabarError, CheckpointError, NewerFormat, printable
from alphabar.data.batch import Images, split
from alphabar.evaluation.copies import Copies, find_copies
from alphabar.evaluation.doctor.history import History
from alphabar.evaluation.doctor.noise_bands import Band, band_errors, guess_errors
from alphabar.evaluation.doctor.pixel_facts import PixelFacts, some_of, stacked_channels
from alphabar.evaluation.doctor.sample_folders import SampleFolder, read_folders
from alphabar.evaluation.doctor.weight_facts import WeightFacts
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.process.chain import Chain
from alphabar.process.schedules import Schedule
from alphabar.samplers.driver import Sampler
from alphabar.samplers.generate import generate
from alphabar.weights import checkpoint

__all__ = ["Data", "Evidence", "Fresh", "Model", "gather"]

# weights × pixels that are worth a look, about a minute of one core; a GPU does fifty times as much
WORK = 1e12
MOST_SAMPLES = 256
LEAST_SAMPLES = 8
MOST_ROWS = 5000
MOST_VALUES = 40_000_000


@dataclass(frozen=True, eq=False)
class Data:
    """The images of the run.

    Attributes:
        train: those it trains on.
        held_out: those it does not.
        facts: of at most 2,048 training images.
        stacked: see :func:`stacked_channels`, in the order of the source.
        source: what ``train`` was given.
    """

    train: Images
    held_out: Images
    facts: PixelFacts
    stacked: float | None
    source: str


@dataclass(frozen=True, eq=False)
class Model:
    """The newest intact checkpoint.

    Attributes:
        folder: where it lies.
        step: after how many steps it was made, None for a saved model.
        shape: (C, H, W).
        schedule: its process, None where the description does not build.
        description: ``model.json``.
        ema: facts of the averaged weights.
        raw: facts of the raw ones, None where they were not kept.
    """

    folder: Path
    step: int | None
    shape: tuple[int, int, int]
    schedule: Schedule | None
    description: Mapping[str, Any]
    ema: WeightFacts
    raw: WeightFacts | None


@dataclass(frozen=True, eq=False)
class Fresh:
    """Samples that were made for this examination, the right way.

    Attributes:
        facts: their statistics.
        steps: hops of the chain.
        copies: how near they lie to training images, None without images of the run.
    """

    facts: PixelFacts
    steps: int
    copies: Copies | None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a run; None or empty where it could not be looked at, with the reason in ``unseen``.

    Attributes:
        run: the run folder.
        settings: the tables of ``config.toml``.
        history: what training wrote.
        model: the newest checkpoint.
        damaged: why no checkpoint could be read, where there are some.
        updates: how many steps before the newest checkpoint changed the weights.
        initial_share: how much of the averaged weights are initial ones, by the settings of the EMA.
        data: the images of the run.
        reference: facts of the images given to ``--data``.
        reference_name: what they are called.
        ema_train: errors of the averaged weights on training images.
        ema_held_out: errors of the averaged weights on held-out images.
        raw_held_out: errors of the raw weights on held-out images (on training images where none are held out).
        guess: errors of the best guess that knows each pixel's mean and variance only.
        fresh: samples made now.
        folders: samples made by the user.
        unseen: what was not looked at, and why.
    """

    run: Path
    settings: Mapping[str, Any]
    history: History
    model: Model | None = None
    damaged: str = ""
    updates: int | None = None
    initial_share: float | None = None
    data: Data | None = None
    reference: PixelFacts | None = None
    reference_name: str = ""
    ema_train: Sequence[Band] = ()
    ema_held_out: Sequence[Band] = ()
    raw_held_out: Sequence[Band] = ()
    guess: Sequence[float] = ()
    fresh: Fresh | None = None
    folders: Sequence[SampleFolder] = ()
    unseen: Sequence[str] = ()

    def setting(self, section: str, key: str) -> Any:
        """One value of ``config.toml``, None where it is not set."""
        table = self.settings.get(section)
        return table.get(key) if isinstance(table, Mapping) else None

    @property
    def real(self) -> PixelFacts | None:
        """The facts of what samples should look like: the training images, else those given to ``--data``."""
        return self.data.facts if self.data is not None else self.reference

    @property
    def onward(self) -> str:
        """The command that continues this run."""
        source = self.data.source if self.data is not None else self.setting("data", "source")
        return f"alphabar train {printable(source or 'SOURCE')} --out {printable(self.run)}"

    @property
    def again(self) -> str:
        """The command that trains this run anew with its settings, to which one that changes is added."""
        same = f" --config {printable(self.run)}/config.toml" if self.settings else ""
        return f"{self.onward} --fresh{same}"


# how the command line samples: the rule, the chain and the conventions for a loaded denoiser
Prepare = Callable[[Denoiser, int], tuple[Sampler, Chain, Denoiser]]


def gather(
    run: Path,
    settings: Mapping[str, Any],
    *,
    initial_share: Callable[[int], float | None],
    prepare: Prepare,
    open_images: Callable[[str], Images],
    reference: Images | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Evidence:
    """Everything about the run (or saved model) in the folder ``run``.

    ``initial_share`` says how much of the averaged weights is initial after so many updates, ``open_images`` opens a
    source as the run does. ``note`` is told what is being done. Whatever cannot be read becomes a line of
    ``Evidence.unseen``.

    Raises:
        NewerFormat: if a newer alphabar made the checkpoint.
    """
    unseen: list[str] = []
    data = _data(settings, open_images, unseen)
    history = History.read(run)
    try:
        model, damaged = _model(run, unseen), ""
    except NewerFormat:
        raise
    except AlphabarError as error:
        model, damaged = None, str(error) if checkpoint.steps(run) or (run / "model.json").exists() else ""
        unseen.append(f"weights: {error}")
    facts = None if reference is None else PixelFacts.of(some_of(reference))
    updates = None if model is None or model.step is None else history.updates(model.step)
    found = Evidence(
        run=run,
        settings=settings,
        history=history,
        model=model,
        damaged=damaged,
        updates=updates,
        initial_share=None if updates is None else initial_share(updates),
        data=data,
        reference=facts,
        reference_name="" if reference is None else reference.name,
        unseen=unseen,
    )
    if model is None:
        return found
    folders = read_folders(run, model.shape)
    loaded = {name: _loaded(model.folder, name, unseen) for name in checkpoint.weights_in(model.folder)}
    usable = data is not None and data.train.shape == model.shape
    if data is not None and not usable:
        unseen.append(f"errors and copies: the images are {data.train.shape}, the model makes {model.shape}")
    bands = _bands(loaded, data, note) if data is not None and usable else {}
    ema = loaded.get("ema")
    fresh = None if ema is None else _fresh(ema, prepare, data if usable else None, unseen, note)
    return Evidence(**{**vars(found), "folders": folders, "fresh": fresh, **bands})


def _data(settings: Mapping[str, Any], open_images: Callable[[str], Images], unseen: list[str]) -> Data | None:
    table = settings.get("data")
    if not isinstance(table, Mapping) or not table.get("source"):
        unseen.append("training images: the folder has no config.toml that names them (--data SOURCE stands in)")
        return None
    try:
        images = open_images(str(table["source"]))
        train, held_out = split(images, int(settings.get("seed", 0)), int(table.get("held_out", 0)))
    except AlphabarError as error:
        unseen.append(f"training images: {error}")
        return None
    first = images.gather(np.arange(min(len(images), 999))).x
    return Data(train, held_out, PixelFacts.of(some_of(train)), stacked_channels(first), str(table["source"]))


def _model(run: Path, unseen: list[str]) -> Model | None:
    """Raise AlphabarError if there is no checkpoint that can be read."""
    folder = checkpoint.find(run)
    description = storage.read_json(folder / "model.json")
    try:
        channels, height, width = (int(n) for n in description["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(folder)}/model.json: not a model of alphabar") from error
    held = checkpoint.weights_in(folder)
    found = {name: checkpoint.read_tensors(folder / f"{name}.safetensors", finite=False) for name in held}
    step = checkpoint.STEP.fullmatch(folder.resolve().name)
    facts = {name: WeightFacts.of(tensors) for name, tensors in found.items()}
    first = facts.get("ema") or facts.get("net")
    if first is None:
        unseen.append(f"weights: {printable(folder)} holds none")
        return None
    name, tensors = next(iter(found.items()))
    try:
        schedule = checkpoint.build_model(description, tensors, printable(folder), name).schedule
    except CheckpointError:
        schedule = None
    return Model(
        folder=folder,
        step=int(step[1]) if step else None,
        shape=(channels, height, width),
        schedule=schedule,
        description=description,
        ema=first,
        raw=facts.get("net"),
    )


def _loaded(folder: Path, name: str, unseen: list[str]) -> Denoiser | None:
    try:
        return checkpoint.read(folder, weights=name, device=default_device())
    except AlphabarError as error:
        unseen.append(f"samples and errors of the {name} weights: {error}")
        return None


def _work(denoiser: Denoiser, share: float) -> int:
    """How many images ``share`` of the time allows to pass through the network."""
    weights = sum(p.numel() for p in unet(denoiser).parameters())
    faster = 50 if next(denoiser.parameters()).is_cuda else 1
    return int(faster * share * WORK / (weights * denoiser.shape[1] * denoiser.shape[2]))


def _bands(loaded: Mapping[str, Denoiser | None], data: Data, note: Callable[[str], None]) -> dict[str, Any]:
    ema, raw = loaded.get("ema"), loaded.get("net")
    some = ema or raw
    if some is None:
        return {}
    note("errors in bands of noise")
    most = min(128, max(8, _work(some, 0.25) // (3 * 8)))
    unseen = data.held_out if len(data.held_out) else data.train
    return {
        "guess": guess_errors(some, data.train),
        "ema_train": [] if ema is None else band_errors(ema, data.train, most),
        "ema_held_out": [] if ema is None or not len(data.held_out) else band_errors(ema, data.held_out, most),
        "raw_held_out": [] if raw is None else band_errors(raw, unseen, most),
    }


def _fresh(
    denoiser: Denoiser, prepare: Prepare, data: Data | None, unseen: list[str], note: Callable[[str], None]
) -> Fresh | None:
    affordable = _work(denoiser, 0.75)
    steps = 50 if affordable >= 50 * LEAST_SAMPLES else 20
    n = min(MOST_SAMPLES, max(LEAST_SAMPLES, affordable // steps))
    rule, chain, denoiser = prepare(denoiser, steps)
    note(f"{n} samples in {len(chain)} steps")
    classes = unet(denoiser).config.num_classes
    labels = torch.arange(n) % classes if classes else None
    try:
        images = generate(denoiser, rule, chain, range(n), y=labels, batch=64)
    except AlphabarError as error:
        unseen.append(f"fresh samples: {error}")
        return None
    copies = None
    if data is not None and len(data.train) >= 2:
        real = [_rows(part) for part in (data.train, data.held_out)]
        copies = find_copies(images.flatten(1), *real, unit=images[0].numel() ** -0.5)
    return Fresh(PixelFacts.of(images), len(chain), copies)


def _rows(images: Images) -> Tensor:
    """Pixels of the first images as rows, as many as fit into memory, for the search for copies."""
    most = min(MOST_ROWS, MOST_VALUES // math.prod(images.shape))
    return images.gather(np.arange(min(len(images), most))).x.flatten(1)
