"""R5: a checkpoint whose bytes changed on the disk is never used, and the one before it is found."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import alphabar as ab
from alphabar.base.errors import CheckpointError
from alphabar.weights import checkpoint
from reliability.runner import Outcome, Toy, one_line

__all__ = ["corrupt_at_random"]


def flip(file: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, other: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def zero_page(file: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    start = rng.randrange(0, len(data), 4096)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    file.write_bytes(data)


def remove(file: Path, other: Path, rng: random.Random) -> None:
    file.unlink()


def add(file: Path, other: Path, rng: random.Random) -> None:
    shutil.copy(file, file.with_name(f"{file.stem}-{rng.randrange(99)}{file.suffix}"))


def swap(file: Path, other: Path, rng: random.Random) -> None:
    """With another file of the same checkpoint, or with the same file of another step."""
    if rng.random() < 0.5 and other.read_bytes() != file.read_bytes():
        shutil.copy(other, file)
        return
    different = [p for p in sorted(file.parent.iterdir()) if p.read_bytes() != file.read_bytes()]
    chosen = rng.choice(different)
    one, two = file.read_bytes(), chosen.read_bytes()
    file.write_bytes(two)
    chosen.write_bytes(one)


DAMAGES: list[Callable[[Path, Path, random.Random], None]] = [flip, flip, truncate, zero_page, remove, add, swap]


def corrupt_at_random(toy: Toy, trials: int, seed: int, continued: int) -> Outcome:
    """R5. Random damage to a random file of the newest checkpoint of a finished run; some runs are continued."""
    rng, outcome = random.Random(seed), Outcome()
    last, older = checkpoint.steps(toy.whole)[:2]
    for number in range(trials):
        run = toy.folder(f"damage-{seed}-{number}")
        shutil.copytree(toy.whole, run)
        damaged = run / last.name
        file = rng.choice(sorted(damaged.iterdir()))
        damage = rng.choice(DAMAGES)
        before = {p.name: p.read_bytes() for p in damaged.iterdir()}
        damage(file, run / older.name / file.name, rng)
        if {p.name: p.read_bytes() for p in damaged.iterdir()} == before:
            shutil.rmtree(run.parent)
            continue  # a page that was zero before
        outcome.trials += 1
        where = f"{damage.__name__} of {file.name} (trial {number})"
        _check(outcome, run, damaged, older.name, where)
        if number < continued:
            ended = toy.forks(["sample", str(damaged), "-n", "1", "--out", str(run.parent / "out")])
            outcome.check(ended.code == 4 and one_line(ended.err), f"{where}: sample: {ended.code} {ended.err}")
            outcome.check(f"{older.name} is intact" in ended.err, f"{where}: sample said {ended.err}")
            toy.finish(run, outcome, where)
        shutil.rmtree(run.parent)
    return outcome


def _check(outcome: Outcome, run: Path, damaged: Path, older: str, where: str) -> None:
    real, opened = checkpoint.read_tensors, []
    checkpoint.read_tensors = lambda path: opened.append(path) or real(path)
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("alphabar").addHandler(handler)
    try:
        with contextlib.suppress(CheckpointError):
            ab.load(damaged)
            outcome.check(False, f"{where}: was loaded")
        ab.load(run)
    finally:
        checkpoint.read_tensors = real
        logging.getLogger("alphabar").removeHandler(handler)
    used = {path.parent.name for path in opened}
    outcome.check(used == {older}, f"{where}: tensors of {used} were read")
    lines = said.getvalue().splitlines()
    outcome.check(len(lines) == 1 and damaged.name in lines[0], f"{where}: warned {lines}")
