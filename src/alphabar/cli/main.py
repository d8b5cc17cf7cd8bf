"""The commands, their options, and what an error becomes: one line on stderr and an exit code.

Nothing heavy is imported here: each command loads its module when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from alphabar.base.allocator import keep_freed_memory
from alphabar.base.chunks import asked_for, is_out_of_memory
from alphabar.base.errors import AlphabarError, ConfigError, OutOfMemory, Stopped, StorageError, printable
from alphabar.base.version import __version__
from alphabar.cli.stop import INTERRUPTED, before_the_first_step

__all__ = ["app", "main"]

MAX_SEED = 2**63 - 1
MAX_IMAGES = 10_000_000

app = typer.Typer(
    name="alphabar",
    help="Denoising diffusion probabilistic models: train, sample, evaluate.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, one of its steps, or a saved model.")]
SampleSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="sampler.*, chain.spacing [logsnr below 100 steps of dpmpp_2m, dpmpp_2m_sde or heun above 16x16 pixels, "
        "else uniform], denoiser.variance, denoiser.clip.",
    ),
]
SamplerName = Annotated[
    str | None,
    typer.Option(
        help="ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, heun, plms or predictor_corrector "
        "[below 100 steps dpmpp_2m_sde, else ancestral]."
    ),
]
SampleSteps = Annotated[
    int | None, typer.Option(help="Hops of the chain [25; 100 up to 16x16 pixels or with --sampler; T is the paper's].")
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings by name, e.g. run.batch=64.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if version:
        print(f"alphabar {__version__}")
        raise Exit(0)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/digits"),
    minutes: Annotated[float, typer.Option(help="Time for training.")] = 2.85,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
) -> None:
    """Train on handwritten digits, sample, measure, and write one page that shows it all."""
    from alphabar.cli import demo as command

    command.run(out, minutes, seed)


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, a folder, zip or tar of images, .npz, .npy, IDX, CIFAR-10, parquet, a datasets folder.",
        ),
    ],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The run folder [runs/NAME].")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A packaged recipe: cifar10, lsun256 (both the paper's), review.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates in all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Choose the number of steps to fit this time.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run [0].")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an existing run aside and start over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the settings, then stop.")] = False,
    micro_batch: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Images at once, for less memory; auto finds what fits.")
    ] = None,
    strict_resume: Annotated[
        bool, typer.Option("--strict-resume", help="Do not continue with other versions, threads or processor.")
    ] = False,
    accept_new_data: Annotated[
        bool, typer.Option("--accept-new-data", help="Continue a run although its images changed.")
    ] = False,
) -> None:
    """Train a model. The same command again continues a run that was interrupted."""
    with before_the_first_step():
        from alphabar.cli import train as command

        command.run(
            source,
            settings or [],
            out=out,
            preset=preset,
            config=config,
            steps=steps,
            minutes=minutes,
            seed=seed,
            fresh=fresh,
            dry_run=dry_run,
            micro_batch=micro_batch,
            strict_resume=strict_resume,
            accept_new_data=accept_new_data,
        )


@app.command()
def sample(
    run: RunPath,
    settings: SampleSettings = None,
    n: Annotated[int | None, typer.Option("-n", help="How many images: seeds 0 to N-1 [64].")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A-B", help="Exactly these seeds, one image each.")] = None,
    sampler: SamplerName = None,
    steps: SampleSteps = None,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    out: Annotated[Path | None, typer.Option(help="The folder to write [RUN/samples/...].")] = None,
    animate: Annotated[bool, typer.Option("--animate", help="Also show the reverse process as GIF and WebP.")] = False,
) -> None:
    """Write images: 00000.png ..., grid.png, manifest.json. Image i depends on its seed alone.

    A model with classes makes class (seed modulo number of classes); manifest.json lists the labels.
    """
    from alphabar.cli import sample as command

    command.run(
        run,
        settings or [],
        n=n,
        seeds=seeds,
        sampler=sampler,
        steps=steps,
        weights=weights,
        out=out,
        animate=animate,
    )


@app.command()
def evaluate(
    run: RunPath,
    settings: SampleSettings = None,
    metrics: Annotated[str, typer.Option(help="What to measure: bpd, fid, kid, is, pr, copies.")] = "bpd",
    n: Annotated[
        int | None,
        typer.Option("-n", "--n", max=MAX_IMAGES, help="How many samples [2048], and held-out images for bpd [all]."),
    ] = None,
    hops: Annotated[int | None, typer.Option(help="bpd: estimate from this many hops instead of all T.")] = None,
    data: Annotated[str | None, typer.Option(help="bpd: other images than those the run held out.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="fid, kid, pr: compare with train, held-out, or a SOURCE [train].")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="inception[:FILE], a classifier (digits), pixels, random-conv, MODULE:FACTORY@FILE [by data]."
        ),
    ] = None,
    sampler: SamplerName = None,
    steps: SampleSteps = None,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="bpd: seed of the noise [0].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model; every number comes with the card that says how it was made.

    bpd: bits per dimension of held-out images. fid, kid, is, pr: distances between samples and real images in the
    features of a network. copies: samples that look like training images. Stopped work goes on where it was.
    """
    from alphabar.cli import evaluate as command

    command.run(
        run,
        settings or [],
        metrics=metrics,
        n=n,
        hops=hops,
        data=data,
        reference=reference,
        features=features,
        sampler=sampler,
        steps=steps,
        weights=weights,
        seed=seed,
        as_json=json,
    )


@app.command()
def classifier(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Labelled images: digits, a folder, a file.")],
    name: Annotated[str | None, typer.Option(help="What to call it [the name of the images].")] = None,
    size: Annotated[int | None, typer.Option(help="Bring images to this size.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images [ten; 150,000 to 300,000 images].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed.")] = 0,
) -> None:
    """Train a small classifier whose features measure samples: evaluate --features NAME. A minute or two."""
    from alphabar.cli import classifier as command

    command.run(source, name=name, size=size, seed=seed, epochs=epochs)


@app.command()
def figures(
    run: RunPath,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Only some of schedule, forward, reverse, progressive, shared_latents, interpolation, coarse_to_fine, "
            "nearest, rate_distortion, terms, quality.",
        ),
    ] = None,
    between: Annotated[
        str | None, typer.Option(metavar="A,B", help="Interpolate between images 3,7 (held-out) or A.png,B.png.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="How many images the measurements take.")] = 128,
    steps: Annotated[int | None, typer.Option(help="Hops of the chain [100; T is the paper's].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the samples and the noise.")] = 0,
    weights: Annotated[str, typer.Option(help="ema or raw.")] = "ema",
    data: Annotated[str | None, typer.Option(help="Other images than those the run held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write [RUN/figures].")] = None,
) -> None:
    """Make the paper's figures with a model: pictures, their data as .npz and .csv, and index.html with all of them."""
    from alphabar.cli import figures as command

    command.run(run, only=only, out=out, between=between, n=n, steps=steps, seed=seed, weights=weights, data=data)


data_app = typer.Typer(name="data", help="Look at images before training on them.", rich_markup_mode=None)
app.add_typer(data_app)


@data_app.callback()
def _data() -> None:
    """Look at images before training on them."""


@data_app.command()
def check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What train takes: a folder, an archive, a file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data.size, data.fit, data.value_range, ...")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Where to write the contact sheet [NAME-sheet.png].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at every file as training would: counts, and bad, repeated, constant and off-size files by name.

    Writes a contact sheet, and says which settings training would choose. Exits with 3 if more than 5 % of the files
    cannot be used, which training refuses.
    """
    from alphabar.cli import data as command

    command.check(source, settings or [], sheet=sheet, as_json=json)


@app.command()
def doctor(
    run: RunPath,
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Images that samples should look like, to compare with.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why samples are noise, flat, tinted, copied or blurred: the likeliest cause, the evidence, what to do.

    Looks at metrics, weights, training images, errors on seen and unseen images, fresh samples, and what sample wrote
    into the run. About a minute. Exit code 0 whether the run is healthy or sick; --json has the verdict for scripts.
    """
    from alphabar.cli import doctor as command

    command.run(run, data=data, as_json=json)


@app.command()
def inspect(run: RunPath) -> None:
    """Say how a run stands, and print the model card: layers, parameters, FLOPs per image, schedule."""
    from alphabar.cli import inspect as command

    command.run(run)


@app.command()
def equations(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/equations.md.")] = False,
) -> None:
    """Print where every equation of the paper is: equation, function, file:line, formula."""
    from alphabar.cli import equations as command

    command.run(markdown)


def _warn(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)


class _Printable(logging.Formatter):
    """A log record as one line, whatever names it holds and whichever library wrote it."""

    def format(self, record: logging.LogRecord) -> str:
        return f"warning: {printable(record.getMessage())}"


def _prepare_output() -> None:
    """Make every line printable: where the terminal has no such letter, its number; where there is none, nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Printable())
        logging.getLogger().addHandler(handler)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0, or the code of the error: see ``docs/architecture.md``)."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    _prepare_output()
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            code = app(args=given, prog_name="alphabar", standalone_mode=False)
            sys.stdout.flush()
            if code == INTERRUPTED:  # what typer makes of a Ctrl-C that nobody caught
                print("stopped", file=sys.stderr)
            return int(code or 0)
        except Stopped as stop:
            print(stop, file=sys.stderr)
            return stop.exit_code
        except AlphabarError as error:
            return _failed(error, error.exit_code, debug)
        except TyperException as error:
            return _failed(ConfigError(printable(error.format_message())), ConfigError.exit_code, debug)
        except Exit as stop:
            return int(stop.exit_code)
        except (KeyboardInterrupt, Abort):
            print("stopped", file=sys.stderr)
            return INTERRUPTED
        except (BrokenPipeError, SystemExit):  # typer turns a closed pipe into an exit of its own
            _discard_output()
            return 141
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                return _internal(error, debug)
            _discard_output()
            return _failed(AlphabarError("standard output: no space left on device"), StorageError.exit_code, debug)
        except MemoryError:
            return _failed(AlphabarError("out of memory; try a smaller batch"), 8, debug)
        except Exception as error:
            if is_out_of_memory(error):
                return _failed(OutOfMemory(f"out of memory{asked_for(error)}; give it fewer images at once"), 8, debug)
            return _internal(error, debug)


def _discard_output() -> None:
    """Keep python from complaining when it flushes an output that takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: AlphabarError, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def _internal(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
        return 1
    log = Path("alphabar-crash.log")
    try:
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
        details = f"details: {log}"
    except OSError:
        details = "run again with --debug for details"
    print(f"error: internal: {type(error).__name__}: {printable(error)} ({details})", file=sys.stderr)
    return 1
