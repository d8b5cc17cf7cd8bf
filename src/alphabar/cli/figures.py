"""``alphabar figures``: the paper's experiments with a trained model, as pictures and as data."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.errors import ConfigError, DataError, MissingExtra, printable
from alphabar.base.version import __version__
from alphabar.cli.classifier import features_for
from alphabar.cli.console import duration, say
from alphabar.cli.evaluate import data_of_run, held_out_images
from alphabar.cli.model import open_model
from alphabar.cli.sample import prepare
from alphabar.data.batch import Images
from alphabar.data.decode import decode
from alphabar.data.sniff import sniff
from alphabar.evaluation.figures import FIGURES, Figure, Pair, Subject, Unavailable
from alphabar.evaluation.figures.decode import device_of, labelled
from alphabar.evaluation.figures.interpolation import pair_of
from alphabar.evaluation.pictures import animation
from alphabar.evaluation.report import Section, page
from alphabar.model.denoiser import Denoiser
from alphabar.weights import checkpoint

__all__ = ["run"]

PAIRED = ("interpolation", "coarse_to_fine")
DRAWING = 0.7  # seconds to draw and write a figure, beside the network


def run(
    path: Path,
    *,
    only: str | None,
    out: Path | None,
    between: str | None,
    n: int,
    steps: int | None,
    seed: int,
    weights: str,
    data: str | None,
) -> None:
    """The command."""
    names = _names(only)
    folder, trained, digest = open_model(path, weights)
    if out is None:
        out = checkpoint.output_folder(folder) / "figures"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{printable(out)}: is a file; give a folder to --out")
    rule, chain, denoiser = prepare(trained, "ancestral", steps)
    train, held_out = _images(folder, data, trained)
    subject = Subject(denoiser, chain, train, held_out, rule, seed=seed, n=n, as_trained=trained)
    options: dict[str, dict[str, Any]] = {}
    if between is not None:
        pair = _pair(between, subject)
        options = {name: {"pair": pair} for name in PAIRED}
    if "quality" in names:
        net = features_for(None, train, trained.shape, quiet=False)
        options["quality"] = {"features": net, "space": f"those of {net.name}"}
    say(f"estimate     {_estimate(subject, names)}")
    began = time.monotonic()
    made = _make(subject, names, options, out, asked=only is not None)
    how = f"{len(chain)} of {chain.schedule.T} steps of ancestral sampling, {weights} weights {digest[:12]}"
    subtitle = f"{how}, seed {seed}, alphabar {__version__}."
    sections = [_section(figure) for figure in made]
    storage.write_file(out / "index.html", page(f"Figures of {printable(_title(folder))}", subtitle, sections))
    took = duration(time.monotonic() - began)
    say(f"done         {len(made)} figures in {took}: open {printable(out / 'index.html')}")


def _title(folder: Path) -> str:
    """RUN, step 1,000 for a run, or the name of a saved model."""
    folder = folder.resolve()
    step = checkpoint.STEP.fullmatch(folder.name)
    return folder.name if step is None else f"{folder.parent.name}, step {int(step[1]):,}"


def _names(only: str | None) -> list[str]:
    """The figures asked for, in the order of the registry.

    Raises:
        ConfigError: for a name that is none.
    """
    if only is None:
        return list(FIGURES)
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        FIGURES[name]
    return [name for name in FIGURES if name in wanted]


def _images(folder: Path, data: str | None, denoiser: Denoiser) -> tuple[Images | None, Images | None]:
    """Training images and held-out images (or those of ``data``); None with a note where they cannot be had.

    Raises:
        ConfigError, DataError: if ``data`` was given and is no good.
    """
    held_out = None if data is None else held_out_images(folder, data, denoiser)
    try:
        train, kept = data_of_run(folder)
    except (ConfigError, DataError) as missing:
        say(f"note         no training images: {str(missing).partition(';')[0]}")
        return None, held_out
    return train, kept if held_out is None else held_out


def _pair(between: str, subject: Subject) -> Pair:
    """The two images that ``--between`` names.

    Raises:
        ConfigError: if it does not name two.
        DataError: if a picture cannot be read or is not like the model's.
    """
    names = [name.strip() for name in between.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--between: got {printable(between)!r}, need two images: 3,7 or A.png,B.png")
    if all(re.fullmatch(r"\d{1,12}", name) for name in names):
        return pair_of(subject, int(names[0]), int(names[1]))
    a, b = (_picture(Path(name), subject.denoiser.shape) for name in names)
    return Pair(a, b, "pictures", (printable(Path(names[0]).name), printable(Path(names[1]).name)))


def _picture(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """A picture file as uint8 [C, H, W].

    Raises:
        DataError: if it is missing, no picture, or of another size or number of channels than ``shape``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror or error}; --between takes 3,7 or A.png,B.png") from error
    content = sniff(data)
    if not content.format:
        raise DataError(f"{printable(path)}: {content.words}; --between needs pictures such as PNG")
    try:
        pixels = torch.from_numpy(decode(data, content).pixels.copy())
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    image = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
    if tuple(image.shape) != shape:
        raise DataError(
            f"{printable(path)}: is {_size(tuple(image.shape))}, the model makes {_size(shape)}; "
            "give --between pictures of that size and mode"
        )
    return image


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels with {channels} channel{'s' if channels > 1 else ''}"


def _estimate(subject: Subject, names: Sequence[str]) -> str:
    """How long it will take, from the time of one batch; names what takes longest."""
    one = _seconds_per_image(subject)
    seconds = {name: FIGURES[name].calls(subject) * one + DRAWING for name in names}
    bound = [name for name in names if FIGURES[name].uses_bound and subject.held_out is not None]
    if bound:
        seconds[bound[0]] += subject.bound_calls * one
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {duration(s)}" for name, s in longest if s > 2 * DRAWING)
    return f"about {duration(sum(seconds.values()))}{f' ({parts})' if parts else ''}"


def _seconds_per_image(subject: Subject) -> float:
    """The time that one image takes in the network, in a batch, after a first call that warms up."""
    count = min(subject.batch, subject.n)
    x = torch.zeros((count, *subject.denoiser.shape), device=device_of(subject.denoiser))
    denoise = labelled(subject.denoiser, subject.labels(range(count)))
    tr = next(iter(subject.chain))
    moments = []
    with torch.no_grad():
        for _ in range(4):
            moments.append(time.perf_counter())
            denoise(x, tr).mean.sum().item()
    return min(b - a for a, b in itertools.pairwise([*moments[1:], time.perf_counter()])) / count


def _make(
    subject: Subject, names: Sequence[str], options: dict[str, dict[str, Any]], out: Path, *, asked: bool
) -> list[Figure]:
    """Make and write the figures; what cannot be made is an error where it was ``asked`` for, else a note."""
    made, plain = [], False
    for name in names:
        began = time.monotonic()
        try:
            figure = FIGURES[name](subject, **options.get(name, {}))
        except Unavailable as reason:
            if asked:
                raise Unavailable(f"{name}: {reason}") from None
            say(f"note         no {name}: it {reason}")
            continue
        written = figure.write(out)
        if not plain and out / f"{name}.png" not in written:
            plain = True
            say(f"note         data and plain grids only: {MissingExtra('drawing', 'matplotlib', 'plots')}")
        kinds = ", ".join(path.name.removeprefix(name) for path in written)
        say(f"{name:<16} {kinds}  ({duration(time.monotonic() - began)})")
        made.append(figure)
    if not made:
        raise DataError("no figure could be made; the notes above say what each needs")
    return made


def _section(figure: Figure) -> Section:
    found = figure.picture()
    pictures = [] if found is None else [(found.kind, found.data, figure.caption)]
    if figure.frames:
        pictures.append(("webp", animation(figure.frames, "WEBP"), "The same for more samples, as an animation."))
    note = figure.caption if found is None else ""
    return Section(figure.title, note, pictures, text=figure.text, smooth=found is not None and found.drawn)
