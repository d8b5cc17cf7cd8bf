"""``alphabar train``: choose settings, print the plan, train."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from alphabar.base import storage
from alphabar.base.choice import from_table
from alphabar.base.device import default_device
from alphabar.base.errors import AlphabarError, ConfigError, Diverged, OutOfMemory, printable
from alphabar.cli.card import model_card
from alphabar.cli.console import duration, say
from alphabar.cli.data import about_files
from alphabar.cli.loop import HELD_OUT_IMAGES, PREVIEW_IMAGES, PREVIEW_STEPS
from alphabar.cli.reading import open_watched, reading_of
from alphabar.cli.session import Conditions, train
from alphabar.data.batch import Images
from alphabar.data.reading import Reading
from alphabar.model.cost import flops_per_image
from alphabar.model.variance import VARIANCES
from alphabar.runtime import config as text
from alphabar.runtime.recipes import for_length, recipe
from alphabar.training import trainer
from alphabar.training.config import RunConfig, RunSettings
from alphabar.training.environment import WITHOUT_COMPILER, environment
from alphabar.training.room import check_room
from alphabar.training.trainer import Run
from alphabar.weights import checkpoint

__all__ = ["run", "steps_within"]

LONG = 2 * 3600
ALONE = 50e9  # floating-point operations of a step that one thread has done in seconds
REPAYS_COMPILING = 20 * 60  # seconds of training on a GPU
AUTO = "auto"
MAY_CHANGE = {
    ("run", key)
    for key in ("steps", "save_every", "preview_every", "keep", "micro_batch", "activation_checkpointing", "compile")
}


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
    micro_batch: str | None,
    strict_resume: bool,
    accept_new_data: bool,
) -> None:
    """The command."""
    if preset is not None and config is not None:
        raise ConfigError("--preset and --config: give one of them, and change it with key=value")
    if (steps is not None) + (minutes is not None) + any(s.partition("=")[0] == "run.steps" for s in settings) > 1:
        raise ConfigError("--steps, --minutes and run.steps: give one of them")
    if any(s.partition("=")[0].strip() == "data.source" for s in settings):
        raise ConfigError("data.source: SOURCE says it; leave the setting out")
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"--minutes: must be above 0, got {minutes:g}")
    over: dict[str, Any] = {} if preset is None else text.preset(preset)
    if config is not None:
        over = text.read_toml(config)
    conditions = Conditions(fresh, accept_new_data, strict_resume, micro_batch == AUTO)
    micro = None if micro_batch in (None, AUTO) else _micro_batch(str(micro_batch))
    given = (("run.steps", steps), ("seed", seed), ("run.micro_batch", micro))
    shortcuts = [f"{key}={value}" for key, value in given if value is not None]
    over = text.override(over, [*settings, *shortcuts])
    text.check_sections(over)
    # said otherwise on the command line: by SOURCE, and by --minutes
    over = _without(over, "data.source", *(["run.steps"] if minutes is not None else []))
    # a preset knows its own data set, not the size of this one
    most = None
    if preset is not None and not any(s.startswith("data.held_out=") for s in settings):
        most, over = over.get("data", {}).get("held_out"), _without(over, "data.held_out")

    if not dry_run:
        _check_place(out if out is not None else Path("runs"))
    anew = fresh or dry_run
    saved = _saved_tables(out) if out is not None and not anew else None
    reading = _reading(saved, over)
    images = open_watched(source, reading)
    if not _is_text(images.spec):
        raise ConfigError(f"{printable(images.spec)}: a path that is no UTF-8 cannot be kept in config.toml; rename it")
    directory = out if out is not None else Path("runs") / (images.name or "run")
    if out is None and not dry_run:
        _check_place(directory)
    if out is None and not anew:
        # only the images say which run this is, so they may have to be read once more
        saved = _saved_tables(directory)
        again = _reading(saved, over)
        images = images if again == reading else open_watched(source, again)
    if saved is not None:
        tables = _continued(saved, over, images, directory)
    else:
        base = text.merge(recipe(images.shape, len(images)), {"data": {"source": images.spec}})
        tables = text.merge(base, over)
        tables["data"]["source"] = images.spec
        if most is not None:
            tables["data"]["held_out"] = min(most, tables["data"]["held_out"])
        variance = tables["denoiser"].get("variance")
        if "output_channels" not in over.get("net", {}) and variance in list(VARIANCES):
            tables["net"]["output_channels"] = images.shape[0] * VARIANCES[variance].channels
        tables = _fit_to_length(tables, over)
    chosen = text.from_tables(tables)

    for line in _about(images, chosen):
        say(line)
    done = _steps_done(directory) if saved is not None else 0
    if done >= chosen.run.steps:
        train(chosen, images, directory, conditions)
        return
    tables = _with_room(tables, images, conditions)
    if saved is not None and minutes is not None:
        say(f"note         --minutes is for new runs; this one has {chosen.run.steps:,} steps")
    if saved is None and minutes is not None:
        # only a time budget lets the clock choose: without it, the same command is the same run on machines of a kind
        began = time.perf_counter()
        if "threads" not in over.get("run", {}):
            tables["run"]["threads"] = _threads(text.from_tables(tables), images)
        seconds, tables = _plan(tables, images, conditions)
        if "compile" not in over.get("run", {}):
            seconds, tables = _compiled(tables, images, seconds, 60 * minutes)
        left = minutes - (time.perf_counter() - began) / 60
        tables = text.merge(tables, {"run": {"steps": steps_within(left, seconds, chosen.run.batch)}})
        chosen = text.from_tables(_fit_to_length(tables, over))
    else:
        seconds, tables = _plan(tables, images, conditions)
        chosen = text.from_tables(tables)
    previews = -(-(chosen.run.steps - done) // chosen.run.preview_every)
    left = (chosen.run.steps - done + previews * preview_steps(chosen.run.batch)) * seconds
    hint = " (--minutes M fits a run into a time)" if left > LONG and saved is None else ""
    say(f"plan         {chosen.run.steps:,} steps of {chosen.run.batch} images, about {duration(left)}{hint}")
    if dry_run:
        say("")
        say(text.dump(chosen).decode())
        return
    train(chosen, images, directory, conditions)


def _reading(saved: dict[str, Any] | None, over: dict[str, Any]) -> Reading:
    """What is not repeated on the command line is as it was; what was given and differs is refused later."""
    return reading_of(text.merge(saved or {}, over).get("data", {}))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_place(out: Path) -> None:
    """Raise early if no run can be kept at ``out``, before images are read and steps are timed.

    Raises:
        StorageError: if it cannot be written.
        RunInUse: if another process trains there.
    """
    storage.check_writable(out)
    holder = storage.holder(out)
    if holder is not None:
        raise storage.in_use(out, holder)


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
            if text.plain({key: given}) != text.plain({key: before}) and (section, key) not in MAY_CHANGE:
                name = f"{section}.{key}" if key else section
                raise ConfigError(
                    f"{where}: this run has {name} = {before}, got {printable(given)}; "
                    "leave it out to continue, or use --fresh to start over"
                )
    return text.merge(saved, over)


def _without(tables: dict[str, Any], *names: str) -> dict[str, Any]:
    """``tables`` without the settings of these dotted names."""
    gone = [name.split(".") for name in names]
    return {
        section: {k: v for k, v in table.items() if [section, k] not in gone} if isinstance(table, dict) else table
        for section, table in tables.items()
    }


def _fit_to_length(tables: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """What the recipe derives from the length of the run, unless the user set it (``over``)."""
    settings = from_table(RunSettings, text.plain(tables["run"]), "run")
    derived = for_length(settings.steps, settings.batch)
    return text.merge(text.merge(tables, derived), {k: v for k, v in over.items() if k in derived})


def _about(images: Images, config: RunConfig) -> list[str]:
    classes = f", {len(images.class_names)} classes" if images.class_names else ""
    kept = f" ({config.data.held_out:,} held out)" if config.data.held_out else ""
    lines = [f"data         {printable(images.name)}: {len(images):,} images{kept}{classes}"]
    lines += about_files(images.survey) if images.survey is not None else []
    lines += [f"note         {note}" for note in images.notes]
    known, asked = len(images.class_names), config.net.num_classes
    if known and not asked:
        lines.append(f"note         classes are not used; net.num_classes={known} learns them")
    if 0 < known < asked:
        lines.append(
            f"note         net.num_classes={asked} is more than the images have: those from {known} on are never learnt"
        )
    return lines


def _micro_batch(given: str) -> int:
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= 10**6:
        raise ConfigError(f"--micro-batch: got {printable(given)!r}, need a number of images, or {AUTO}")
    return int(given)


def _with_fewer(tables: dict[str, Any], error: OutOfMemory, conditions: Conditions) -> dict[str, Any]:
    """The settings with the micro-batch that fits, where that was asked for; else ``error`` is raised."""
    if not conditions.find_micro_batch or error.micro_batch is None:
        raise error
    say(f"note         {str(error).partition(';')[0]}: taking {error.micro_batch} images at once")
    return text.merge(tables, {"run": {"micro_batch": error.micro_batch}})


def _with_room(tables: dict[str, Any], images: Images, conditions: Conditions) -> dict[str, Any]:
    """The settings of a step that should fit into a processor's memory, which is not always refused in time."""
    try:
        check_room(text.from_tables(tables), images.shape, default_device())
    except OutOfMemory as error:
        return _with_fewer(tables, error, conditions)
    return tables


def _plan(tables: dict[str, Any], images: Images, conditions: Conditions) -> tuple[float, dict[str, Any]]:
    """Print the model card and the seconds of one step, timed on a copy of the run; returns those and the settings.

    Where a step does not fit into memory and the conditions allow it, the settings get the micro-batch that does.
    """
    config = text.from_tables(tables)
    with _compiling(config):
        trial = trainer.build(config, images)
    for line in model_card(trial.denoiser):
        say(line)
    if environment(trial.device).get("operators") == WITHOUT_COMPILER:
        say("note         there is no C compiler (cc) that works: training takes longer than it could")
    while True:
        try:
            with _compiling(config):
                seconds = _seconds_per_step(trial, config.run.threads, patience=5)
            break
        except OutOfMemory as error:
            tables = _with_fewer(tables, error, conditions)
            trial.config = config = text.from_tables(tables)
    threads = config.run.threads
    where = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    how = "compiled" if config.run.compile else "not compiled"
    say(
        f"speed        {seconds * 1000:.3g} ms per step, {config.run.batch / seconds:,.0f} images/s "
        f"on {trial.device}{where}, {how}"
    )
    return seconds, tables


def _seconds_per_step(trial: Run, threads: int | None, patience: float) -> float:
    """The mean over ``patience`` seconds of a run that is thrown away (4 to 100 steps), after a quarter to warm up."""
    if threads is not None:
        torch.set_num_threads(threads)
    steps = trainer.fit(trial)
    moments = [time.perf_counter()]
    while len(moments) < 101 and (len(moments) < 5 or moments[-1] - moments[0] < patience):
        try:
            next(steps)
        except (StopIteration, Diverged):  # the run itself knows what to do about it
            break
        moments.append(time.perf_counter())
    steps.close()  # type: ignore[attr-defined]
    warm = len(moments) // 4
    return (moments[-1] - moments[warm]) / max(1, len(moments) - 1 - warm)


@contextlib.contextmanager
def _compiling(config: RunConfig) -> Iterator[None]:
    """Where torch cannot compile, for want of a C++ compiler or by a fault of its own, say so in one line."""
    try:
        yield
    except AlphabarError:
        raise
    except Exception as error:
        if not config.run.compile:
            raise
        why = printable(str(error).strip().partition("\n")[0])[:200]
        raise ConfigError(f"run.compile: torch.compile fails here ({why}); set run.compile=false") from error


def _compiled(tables: dict[str, Any], images: Images, seconds: float, total: float) -> tuple[float, dict[str, Any]]:
    """The seconds of one step and the settings, compiled where a run of ``total`` seconds repays it.

    It is tried where it may: on a GPU, in long runs. On processors it gains little or loses (docs/decisions.md, 40).
    Only a time budget lets the clock decide it; a run of so many steps asks for it by ``run.compile=true``.
    """
    if not torch.cuda.is_available() or total < REPAYS_COMPILING:
        return seconds, tables
    say(f"note         compiling: a run of {duration(total)} may repay the minutes that it takes (run.compile=false)")
    faster = text.merge(tables, {"run": {"compile": True}})
    config = text.from_tables(faster)
    began = time.perf_counter()
    try:
        with _compiling(config):
            found = _seconds_per_step(trainer.build(config, images), config.run.threads, patience=5)
    except (ConfigError, OutOfMemory) as error:
        say(f"note         not compiled: {error}")
        return seconds, tables
    spent, gain = time.perf_counter() - began, 1 - found / seconds
    if gain * total < spent:
        say(f"note         not compiled: a step takes {found * 1000:.3g} ms then")
        return seconds, tables
    say(f"speed        {found * 1000:.3g} ms per step compiled, {config.run.batch / found:,.0f} images/s")
    return found, faster


def _threads(config: RunConfig, images: Images) -> int | None:
    """How many threads train fastest here: all, or one.

    Threads wait for each other at every layer. Where another process holds a core, a small network is several times
    faster on one thread; the number is kept with the settings, because it decides how sums are rounded. A step that
    is slow because it is much work would take one thread too long to try.
    """
    most = torch.get_num_threads()
    trial = trainer.build(config, images)
    if trial.device.type != "cpu" or most == 1:
        return None
    together = _seconds_per_step(trial, most, patience=2)
    if together > 1 and 3 * flops_per_image(trial.denoiser) * config.run.batch > ALONE:
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
