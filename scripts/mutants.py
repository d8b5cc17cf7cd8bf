"""Mutation check: does the test suite notice plausible bugs in the mathematics?

Every entry of ``mutants.toml`` is one bug: a file below src/alphabar, a text that occurs in it exactly once, and the
text that replaces it. Each bug is put into a copy of the package of its own, in a temporary directory that comes first
on PYTHONPATH, and the tests run against that copy: those of ``[first]`` that belong to the file, then, if they pass,
all others. A bug that no test notices has survived. The tests too are copied at the start, so that the tree may be
edited meanwhile; the unchanged package must pass them all.

    python scripts/mutants.py                   run everything, write docs/results/mutants.{json,md}
    python scripts/mutants.py --only beta ddim  only bugs whose description or file contains a word; writes nothing
    python scripts/mutants.py --jobs 4          other than two at a time

A run is pytest -x -q -p no:cacheprovider in a forked child of this process, which has imported torch and the like but
not the package; hence Linux or macOS.

Exit status: 0 if every bug is found; 1 if one survives; 2 if the list is not true any more (a text that does not occur
exactly once, a change that is not a bug but broken Python) or the unchanged package fails.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
RESULTS = ROOT / "docs" / "results"
OPTIONS = [
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
]
PRELOADED = (
    *("torch", "torch.distributed.tensor", "torch.testing", "torch._dynamo", "safetensors.torch"),
    *("numpy", "scipy.stats", "PIL.Image", "pydantic", "typer", "hypothesis", "pytest"),
)
BROKEN = re.compile(r"\b(NameError|SyntaxError|IndentationError|ImportError|ModuleNotFoundError|UnboundLocalError)\b")
TIMEOUT = 600.0  # seconds for the tests of one bug; all of them take more than four minutes on one core
COMMAND = "python scripts/mutants.py"


class Untrue(Exception):
    """The list of mutants does not fit the source."""


@dataclass(frozen=True)
class Mutant:
    """One bug: ``old`` in ``file`` (below src/alphabar) becomes ``new``; ``first`` are the likely tests, if special."""

    bug: str
    file: str
    old: str
    new: str
    first: tuple[str, ...] = ()

    def apply(self, package: Path) -> None:
        """Put the bug into the copy of the package at ``package``."""
        path = package / self.file
        if not path.is_file():
            raise Untrue(f"{self.bug}: there is no {self.file}")
        text = path.read_text(encoding="utf-8")
        if (times := text.count(self.old)) != 1:
            raise Untrue(f"{self.bug}: the text occurs {times} times in {self.file}:\n{self.old}")
        mutated = text.replace(self.old, self.new)
        try:
            if path.suffix == ".py":
                compile(mutated, self.file, "exec")
        except SyntaxError as error:
            raise Untrue(f"{self.bug}: not Python any more: {error}") from error
        path.write_text(mutated, encoding="utf-8")


@dataclass(frozen=True)
class Outcome:
    """What became of one bug. ``killed_by`` is the first test that failed, or "timeout"; None for a survivor."""

    bug: str
    file: str
    killed_by: str | None
    why: str
    seconds: float


@dataclass(frozen=True)
class Stage:
    """The temporary directory: a copy of the tests, and one package per mutant."""

    root: Path
    tests: tuple[str, ...]
    likely: dict[str, list[str]]

    @staticmethod
    def build(root: Path, directories: Sequence[str], without: Sequence[str], likely: dict[str, list[str]]) -> Stage:
        """Copy what the runs need from the checkout to ``root``."""
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests", root / "tests", ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", root)
        shutil.copytree(ROOT / "src" / "alphabar", root / "original" / "alphabar", ignore=ignore)
        found = [str(p.relative_to(root)) for d in directories for p in sorted((root / d).glob("test_*.py"))]
        listed = [*without, *(path for paths in likely.values() for path in paths)]
        if missing := [path for path in listed if not any(t == path or t.startswith(path + "/") for t in found)]:
            raise Untrue(f"there are no {', '.join(missing)}")
        return Stage(root, tuple(test for test in found if test not in without), likely)

    def package(self, name: str) -> Path:
        """A fresh copy of the package, ``name``/alphabar."""
        return Path(shutil.copytree(self.root / "original", self.root / name)) / "alphabar"

    def order(self, mutant: Mutant) -> list[list[str]]:
        """The tests in two parts: likely ones, all others."""
        wanted = mutant.first or self.likely.get(mutant.file, ())
        first = [t for w in wanted for t in self.tests if t == w or t.startswith(w + "/")]
        return [part for part in (first, [t for t in self.tests if t not in first]) if part]

    def run(self, name: str, tests: Sequence[str]) -> tuple[str, str] | None:
        """(first failing test, its message) of ``tests`` against ``name``/alphabar, or None if they pass."""
        log = self.root / f"{name}.log"
        code = in_a_fork(lambda: self._pytest(name, tests), log, TIMEOUT)
        if code is None:
            return "timeout", f"more than {TIMEOUT:.0f} s"
        if code == 0:
            return None
        text = log.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::.*?)?)(?: - (.*))?$", text, re.MULTILINE)
        if match is None:
            raise Untrue(f"{name}: pytest ended with {code} and names no test:\n{text[-3000:]}")
        why = match[2] or ""
        if "::" not in match[1]:  # the module could not be imported: its last exception says why
            raised = re.findall(r"^E +(\S.*)$", text, re.MULTILINE)
            why = raised[-1] if raised else why
        return match[1], why[:200]

    def _pytest(self, name: str, tests: Sequence[str]) -> int:
        """In the child: pytest with ``name``/alphabar, and no other, as the package."""
        path = str(self.root / name)
        os.chdir(self.root)
        os.environ["PYTHONPATH"] = path  # for the processes that tests start
        os.environ["COLUMNS"] = "400"
        # a forked child runs no exit handlers: what they would remove goes with the stage
        os.environ["TMPDIR"], tempfile.tempdir = str(self.root), None
        sys.path.insert(0, path)
        import pytest

        import alphabar

        assert alphabar.__file__ == f"{path}/alphabar/__init__.py", alphabar.__file__
        print(f"imports {name}/alphabar/__init__.py", flush=True)
        return int(pytest.main([*OPTIONS, *tests]))

    def imported(self, name: str) -> str:
        """What the last run of ``name`` said about the package it imported."""
        return (self.root / f"{name}.log").read_text(encoding="utf-8").partition("\n")[0]

    def judge(self, numbered: tuple[int, Mutant]) -> Outcome:
        """Run the tests against one bug."""
        number, mutant = numbered
        began, name = time.perf_counter(), f"mutant{number:03d}"
        mutant.apply(self.package(name))
        failed = None
        for part in self.order(mutant):
            failed = failed or self.run(name, part)
        shutil.rmtree(self.root / name)
        if failed and BROKEN.search(failed[1]):
            raise Untrue(f"{mutant.bug}: breaks the code instead of changing what it computes: {failed[1]}")
        by, why = failed or (None, "")
        return Outcome(mutant.bug, mutant.file, by, why, round(time.perf_counter() - began, 1))


def preload() -> None:
    """Import what every run needs but the package itself, once, before any child is forked."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = False  # the tests are compiled once
    for module in PRELOADED:
        importlib.import_module(module)
    assert "alphabar" not in sys.modules
    gc.freeze()  # or every child would search all of torch for garbage


def in_a_fork(task: Callable[[], int], log: Path, timeout: float) -> int | None:
    """The exit status of ``task`` in a child process that prints to ``log``, or None after ``timeout`` seconds."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = task()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def load() -> tuple[list[str], list[str], dict[str, list[str]], list[Mutant]]:
    """(test directories, test files left out, likely tests of each file, mutants) of ``mutants.toml``."""
    table = tomllib.loads(LIST.read_text(encoding="utf-8"))
    mutants = [Mutant(**{**entry, "first": tuple(entry.get("first", ()))}) for entry in table["mutant"]]
    bugs = [mutant.bug for mutant in mutants]
    if repeated := {bug for bug in bugs if bugs.count(bug) > 1}:
        raise Untrue(f"described twice: {sorted(repeated)}")
    return table["tests"], table["without"], table["first"], mutants


def machine() -> dict[str, str | int]:
    """What the numbers were measured on."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (model := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        processor = f"{platform.machine()} ({model[1]})"
    return {
        "cpus": os.cpu_count() or 1,
        "processor": processor,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(outcomes: Sequence[Outcome], baseline: float, total: float) -> None:
    """docs/results/mutants.json and .md."""
    survivors = sum(o.killed_by is None for o in outcomes)
    facts = {
        "date": datetime.date.today().isoformat(),
        **machine(),
        "command": f'PYTEST_ADDOPTS="{options}" {COMMAND}'
        if (options := os.environ.get("PYTEST_ADDOPTS"))
        else COMMAND,
        "mutants": len(outcomes),
        "killed": len(outcomes) - survivors,
        "survived": survivors,
        "baseline_seconds": round(baseline, 1),
        "total_seconds": round(total, 1),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {**facts, "outcomes": [asdict(o) for o in outcomes]}
    (RESULTS / "mutants.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [
        "# Mutation check",
        "",
        f"{facts['killed']} of {facts['mutants']} deliberate bugs are found by the tests; {survivors} survived.",
        "",
        f"- date: {facts['date']}",
        f"- machine: {facts['cpus']} CPUs, {facts['processor']}, {facts['system']}",
        f"- Python {facts['python']}, torch {facts['torch']}",
        f"- command: `{facts['command']}`",
        f"- unchanged package: passes in {baseline:.0f} s; everything: {total:.0f} s",
        "",
        "| bug | file | killed by | seconds |",
        "| --- | --- | --- | ---: |",
    ]
    for o in outcomes:
        by = f"`{o.killed_by}`" if o.killed_by else "**survived**"
        cells = (o.bug, f"`{o.file}`", by, f"{o.seconds:.1f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    (RESULTS / "mutants.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def check(jobs: int, only: Sequence[str]) -> int:
    """Run the check; the exit status."""
    directories, without, likely, mutants = load()
    chosen = [m for m in mutants if not only or any(word in f"{m.file} {m.bug}" for word in only)]
    began = time.perf_counter()
    preload()
    outcomes, baseline = [], 0.0
    with tempfile.TemporaryDirectory(prefix="alphabar-mutants-") as temporary:
        stage = Stage.build(Path(temporary).resolve(), directories, without, likely)
        for mutant in chosen:  # before the long work: is the list true?
            mutant.apply(package := stage.package("probe"))
            shutil.rmtree(package.parent)
        print(f"{len(stage.tests)} test files, {len(chosen)} bugs", flush=True)
        if not only:
            stage.package("unchanged")
            if failed := stage.run("unchanged", stage.tests):
                raise Untrue(f"the unchanged package fails {failed[0]}: {failed[1]}")
            baseline = time.perf_counter() - began
            print(f"unchanged: passes, {baseline:.1f} s; {stage.imported('unchanged')}", flush=True)
        # workers have a single thread, so that they may fork; those of multiprocessing.Pool are daemons, whose children
        # would fail every test that starts processes, and so find any bug
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            for outcome in pool.map(stage.judge, enumerate(chosen)):
                outcomes.append(outcome)
                by = outcome.killed_by or "SURVIVED"
                print(f"{outcome.seconds:6.1f} s  {outcome.file}: {outcome.bug}: {by}  {outcome.why[:90]}", flush=True)
    total = time.perf_counter() - began
    survivors = [o for o in outcomes if o.killed_by is None]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} killed, {total:.0f} s")
    for survivor in survivors:
        print(f"survived: {survivor.file}: {survivor.bug}")
    if not only:
        write(outcomes, baseline, total)
    return 1 if survivors else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Put bugs into copies of the package; do the tests notice?")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="bugs whose text contains one of these")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
    arguments = parser.parse_args()
    try:
        return check(arguments.jobs, arguments.only)
    except Untrue as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
