"""``alphabar train``: choose settings, print the plan, train."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alphabar.base.choice import from_table
from alphabar.base.errors import ConfigError, StorageError, printable
from alphabar.cli.card import model_card
from alphabar.cli.console import duration, say
from alphabar.cli.data import about_files
from alphabar.cli.reading import open_watched, reading_of
from alphabar.cli.session import HELD_OUT_IMAGES, PREVIEW_IMAGES, PREVIEW_STEPS, train
from alphabar.data.batch import Images
from alphabar.model.variance import VARIANCES
from alphabar.runtime import config as text
from alphabar.runtime.recipes import for_length, recipe
from alphabar.training import trainer
from alphabar.training.config import RunConfig, RunSettings
from alphabar.training.trainer import Run
from alphabar.weights import checkpoint

__all__ = ["run", "steps_within"]

LONG = 2 * 3600
MAY_CHANGE = {("run", "steps"), ("run", "save_every"), ("run", "preview_every"), ("run", "keep")}


def run(
    source: str,
    settings: Sequence[str],
    *,
    out: Path | None,
    preset: str | None,
    config: Path | None,
    steps: int | None,
    minutes: float | None,
    seed: int | None,
    fresh: bool,
    dry_run: bool,
) -> None:
    """The command."""
    if preset is not None and config is not None:
        raise ConfigError("--preset and --config: give one of them, and change it with key=value")
    if (steps is not None) + (minutes is not None) + any(s.partition("=")[0] == "run.steps" for s in settings) > 1:
        raise ConfigError("--steps, --minutes and run.steps: give one of them")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"--minutes: must be above 0, got {minutes:g}")
    over: dict[str, Any] = {} if preset is None else text.preset(preset)
    if config is not None:
        over = text.read_toml(config)
    shortcuts = [f"{key}={value}" for key, value in (("run.steps", steps), ("seed", seed)) if value is not None]
    over = text.override(over, [*settings, *shortcuts])
    text.check_sections(over)

    if out is not None and not dry_run:
        _check_place(out)
    reading = reading_of(over.get("data", {}))
    images = open_watched(source, reading)
    directory = out if out is not None else Path("runs") / (images.name or "run")
    saved = _saved_tables(directory) if not (fresh or dry_run) else None
    if saved is not None and reading_of(saved.get("data", {})) != reading:
        # what was not repeated on the command line is as it was; what was given and differs is refused below
        images = open_watched(source, reading_of(text.merge(saved, over)["data"]))
    if saved is not None:
        tables = _continued(saved, over, images, directory)
    else:
        base = text.merge(recipe(images.shape, len(images)), {"data": {"source": images.spec}})
        tables = text.merge(base, over)
        tables["data"]["source"] = images.spec
        if preset is not None and not any(s.startswith("data.held_out=") for s in settings):
            # a preset knows its own data set, not the size of this one
            tables["data"]["held_out"] = min(tables["data"]["held_out"], base["data"]["held_out"])
        variance = tables["denoiser"].get("variance")
        if "output_channels" not in over.get("net", {}) and variance in list(VARIANCES):
            tables["net"]["output_channels"] = images.shape[0] * VARIANCES[variance].channels
        tables = _fit_to_length(tables, over)
    chosen = text.from_tables(tables)

    for line in _about(images, chosen):
        say(line)
    done = _steps_done(directory) if saved is not None else 0
    if done >= chosen.run.steps:
        train(chosen, images, directory)
        return
    if saved is not None and minutes is not None:
        say(f"note         --minutes is for new runs; this one has {chosen.run.steps:,} steps")
    if saved is None and minutes is not None:
        # only a time budget makes settings depend on the machine: without it, the same command is the same run
        if chosen.run.threads is None:
            tables["run"]["threads"] = _threads(chosen, images)
        seconds = _plan(text.from_tables(tables), images)
        tables = text.merge(tables, {"run": {"steps": steps_within(minutes, seconds, chosen.run.batch)}})
        chosen = text.from_tables(_fit_to_length(tables, over))
    else:
        seconds = _plan(chosen, images)
    previews = -(-(chosen.run.steps - done) // chosen.run.preview_every)
    left = (chosen.run.steps - done + previews * preview_steps(chosen.run.batch)) * seconds
    hint = " (--minutes M fits a run into a time)" if left > LONG and saved is None else ""
    say(f"plan         {chosen.run.steps:,} steps of {chosen.run.batch} images, about {duration(left)}{hint}")
    if dry_run:
        say("")
        say(text.dump(chosen).decode())
        return
    train(chosen, images, directory, fresh=fresh)


def _check_place(out: Path) -> None:
    """Raise StorageError early if no folder can be made at ``out``, before images are read and steps are timed."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not place.is_dir():
        raise StorageError(f"{printable(place)}: is a file; give a folder to --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{printable(place)}: not writable; give another folder to --out")


def _saved_tables(directory: Path) -> dict[str, Any] | None:
    file = directory / "config.toml"
    return text.read_toml(file) if file.exists() else None


def _steps_done(directory: Path) -> int:
    done = checkpoint.steps(directory)
    return int(done[0].name.removeprefix("step-")) if done else 0


def _continued(saved: dict[str, Any], over: dict[str, Any], images: Images, directory: Path) -> dict[str, Any]:
    """The saved settings, with what may change between sessions; anything else that differs is refused."""
    where = printable(directory)
    source = saved.get("data", {}).get("source")
    if source != images.spec:
        raise ConfigError(
            f"{where}: this run trains on {printable(source)}, got {printable(images.spec)}; "
            "use another --out, or --fresh to start over"
        )
    for section, value in over.items():
        for key, given in value.items() if isinstance(value, dict) else [("", value)]:
            before = saved.get(section, {}).get(key) if key else saved.get(section)
            if given != before and (section, key) not in MAY_CHANGE:
                name = f"{section}.{key}" if key else section
                raise ConfigError(
                    f"{where}: this run has {name} = {before}, got {printable(given)}; "
                    "leave it out to continue, or use --fresh to start over"
                )
    return text.merge(saved, over)


def _fit_to_length(tables: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """What the recipe derives from the length of the run, unless the user set it (``over``)."""
    settings = from_table(RunSettings, tables["run"], "run")
    derived = for_length(settings.steps, settings.batch)
    return text.merge(text.merge(tables, derived), {k: v for k, v in over.items() if k in derived})


def _about(images: Images, config: RunConfig) -> list[str]:
    classes = f", {len(images.class_names)} classes" if images.class_names else ""
    kept = f" ({config.data.held_out:,} held out)" if config.data.held_out else ""
    lines = [f"data         {printable(images.name)}: {len(images):,} images{kept}{classes}"]
    lines += about_files(images.survey) if images.survey is not None else []
    lines += [f"note         {note}" for note in images.notes]
    if images.class_names and not config.net.num_classes:
        lines.append(f"note         classes are not used; net.num_classes={len(images.class_names)} learns them")
    return lines


def _plan(config: RunConfig, images: Images) -> float:
    """Print the model card; time a few steps on a copy of the run and return the seconds of one."""
    trial = trainer.build(config, images)
    for line in model_card(trial.denoiser):
        say(line)
    seconds = _seconds_per_step(trial, config.run.threads, patience=5)
    where = str(trial.device) if config.run.threads is None else f"{trial.device}, {config.run.threads} threads"
    say(f"speed        {seconds * 1000:.3g} ms per step, {config.run.batch / seconds:,.0f} images/s on {where}")
    return seconds


def _seconds_per_step(trial: Run, threads: int | None, patience: float) -> float:
    """The mean over ``patience`` seconds of a run that is thrown away (4 to 100 steps), after a quarter to warm up."""
    if threads is not None:
        torch.set_num_threads(threads)
    steps = trainer.fit(trial)
    moments = [time.perf_counter()]
    while len(moments) < 101 and (len(moments) < 5 or moments[-1] - moments[0] < patience):
        try:
            next(steps)
        except StopIteration:
            break
        moments.append(time.perf_counter())
    steps.close()  # type: ignore[attr-defined]
    warm = len(moments) // 4
    return (moments[-1] - moments[warm]) / max(1, len(moments) - 1 - warm)


def _threads(config: RunConfig, images: Images) -> int | None:
    """How many threads train fastest here: all, or one.

    Threads wait for each other at every layer. Where another process holds a core, a small network is several times
    faster on one thread; the number is kept with the settings, because it decides how sums are rounded.
    """
    most = torch.get_num_threads()
    trial = trainer.build(config, images)
    if trial.device.type != "cpu" or most == 1:
        return None
    together = _seconds_per_step(trial, most, patience=2)
    if together > 1:
        return most
    alone = _seconds_per_step(trainer.build(config, images), 1, patience=2)
    return 1 if alone < 0.8 * together else most


def preview_steps(batch: int) -> float:
    """The time of one preview and held-out loss, in steps: an image passes forward in a third of its training time."""
    return (PREVIEW_IMAGES * PREVIEW_STEPS + HELD_OUT_IMAGES) / 3 / batch


def steps_within(minutes: float, seconds: float, batch: int) -> int:
    """How many steps of so many seconds fit, beside the previews: ten of them, or one every thousand steps."""
    total, preview = minutes * 60 * 0.97 / seconds, preview_steps(batch)
    return max(1, int(min(total - 10 * preview, total / (1 + preview / 1000))))
