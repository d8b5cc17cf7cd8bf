"""R4 and R12: disks that are full, read-only or refuse, at the start and in the middle of a run."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphabar.base import storage
from reliability.crashes import check_state
from reliability.faults import fill_disk
from reliability.runner import Outcome, Toy, differences, newest, one_line, unloadable

__all__ = ["fill_up", "full_for_other_commands", "no_room_to_start", "refuse_in_save", "small_disk", "unwritable"]

START = 14  # the folder, the settings, run.json, two lines of the log
SPACE = re.compile(r"no space left on device \(need [\d.,]+ MB, free [\d.,]+ MB\)")


@contextlib.contextmanager
def small_disk(place: Path, megabytes: float = 2) -> Iterator[Path | None]:
    """A file system of so many megabytes at ``place``; None where none may be mounted."""
    place.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    mounted = _call("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place))
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """``folder`` as a read-only mount; False where that is not permitted."""
    mounted = _call("mount", "--bind", str(folder), str(folder))
    done = mounted and _call("mount", "-o", "remount,ro,bind", str(folder))
    try:
        yield done
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[bool]:
    """``folder`` with the attribute +i; False where the file system has none."""
    done = _call("chattr", "+i", str(folder))
    try:
        yield done
    finally:
        if done:
            subprocess.run(["chattr", "-i", str(folder)], check=True)


def _call(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def stumps(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob(f"{storage.TEMPORARY}*")]


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning: ")]


def fill_up(toy: Toy, disk: Path) -> Outcome:
    """R4. A disk that fills up in the middle, for a while and for good, under a run that does not stop for it."""
    outcome = Outcome(trials=2)
    filler, run = disk / "filler", disk / "run"
    since, until = toy.save + 2, 3 * toy.save + 2
    ended = toy.forks(toy.train(run), {"kind": "full", "path": str(filler), "since": since, "until": until})
    told = warnings(ended.err)
    outcome.check(ended.code == 0, f"full for a while: exit code {ended.code}: {ended.err}")
    # the log, the checkpoints of two intervals; nothing else is said
    outcome.check(len(told) == 3 == len(ended.err.splitlines()), f"full for a while: said {ended.err}")
    intact = f"last checkpoint step-{toy.save:09d} is intact"
    outcome.check(all(intact in line for line in told[1:]), f"full for a while: said {told}")
    _check_spared(outcome, toy, run, "full for a while")
    shutil.rmtree(run)

    ended = toy.forks(toy.train(run), {"kind": "full", "path": str(filler), "since": since, "until": None})
    outcome.check(ended.code == 5 and one_line(ended.err), f"full for good: exit code {ended.code}: {ended.err}")
    last = ended.err.splitlines()[-1]
    outcome.check(
        "no space left on device" in last and "free 0 MB" in last and intact in last, f"full for good: {last}"
    )
    outcome.check(not unloadable(run) and not stumps(run), f"full for good: left {stumps(run)} {unloadable(run)}")
    again = toy.forks(toy.train(run))
    outcome.check(again.code == 5, f"still full: exit code {again.code}")
    outcome.check(newest(run) == toy.save and not stumps(run), "still full: the checkpoint is gone")
    outcome.facts = {"message": last.replace(str(disk), "disk")}
    filler.unlink()
    toy.finish(run, outcome, "after a full disk")
    return outcome


def files_too_large(toy: Toy) -> Outcome:
    """R4. Where a large file is refused, and so every checkpoint, the log and the settings are still written."""
    outcome, run = Outcome(trials=1), toy.folder("small-files")
    ended = toy.forks(toy.train(run), {"kind": "small_files", "size": 20_000})
    outcome.check(ended.code == 5 and one_line(ended.err), f"exit code {ended.code}: {ended.err}")
    last = ended.err.splitlines()[-1]
    outcome.check("File too large; no checkpoint yet" in last, last)
    outcome.check(not stumps(run.parent) and newest(run) == 0, f"left {stumps(run.parent)}")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    outcome.check(json.loads(lines[-1])["step"] == toy.steps, "the log does not reach the last step")
    status = json.loads((run / "run.json").read_text())
    outcome.check((status["state"], status["exit_code"], status["saved"]) == ("failed", 5, None), f"{status}")
    toy.finish(run, outcome, "after files were too large")
    return outcome


def refuse_in_save(toy: Toy, step: int, code: int, required: bool) -> Outcome:
    """R4. Each operation of a save fails: the checkpoint before stays, no stump does, one line says it."""
    name = f"{'last-' if required else ''}{errno.errorcode[code]}-{step}"
    outcome, run = Outcome(), toy.folder(name)
    into = run.parent.with_name(f"{name}-states")
    into.mkdir()
    fault = {"kind": "explode", "root": str(run.parent), "run": str(run), "step": step, "into": str(into), "code": code}
    ended = toy.forks(toy.train(run), fault)
    assert ended.code == 0, ended.err
    for note in sorted(into.glob("*.json"), key=lambda path: int(path.stem)):
        facts: dict[str, Any] = json.loads(note.read_text())
        state = into / note.stem / "run"
        outcome.trials += 1
        where = f"{name} at operation {note.stem} ({facts['operation']} {Path(facts['path']).name}) of the save"
        # the operations after the rename belong to run.json and to old checkpoints
        check_state(outcome, toy, state, where, {step - toy.save, step})
        outcome.check(not facts["stumps"], f"{where}: left {facts['stumps']}")
        outcome.check(not unloadable(state), f"{where}: left {unloadable(state)}")
        error, warned = facts.get("error", ""), facts["warned"]
        if newest(state) < step:
            said = error if required else "".join(warned)
            outcome.check(f"step-{step - toy.save:09d} is intact" in said, f"{where}: said {said!r}")
        expected = "StorageError" if required and newest(state) < step else ""
        outcome.check(error.startswith(expected) and bool(error) <= required, f"{where}: raised {error}")
        outcome.check(len(warned) <= 1, f"{where}: warned {warned}")
        shutil.rmtree(state.parent)
    return outcome


def no_room_to_start(toy: Toy) -> Outcome:
    """R4. Each operation of a start of a run fails in turn: exit code 5, or training goes on; never anything else."""
    outcome = Outcome()
    for at in range(1, START + 1):
        run = toy.folder(f"no-room-{at}")
        fault = {"kind": "refuse_one", "root": str(run.parent), "at": at, "code": errno.ENOSPC}
        ended = toy.forks(toy.train(run, steps=2), fault)
        outcome.trials += 1
        where = f"no room for operation {at} of a start"
        outcome.check(ended.code in (0, 5), f"{where}: exit code {ended.code}: {ended.err}")
        outcome.check("no space left on device" in ended.err, f"{where}: said {ended.err}")
        outcome.check(ended.code == 0 or one_line(ended.err), f"{where}: said {ended.err}")
        outcome.check(not stumps(run.parent), f"{where}: left {stumps(run.parent)}")
        reached = newest(run)
        outcome.check(reached == (2 if ended.code == 0 else 0), f"{where}: step {reached}")
    return outcome


def full_for_other_commands(toy: Toy, disk: Path, commands: dict[str, list[str]]) -> Outcome:
    """R4. Sampling, measuring and drawing on a full disk: exit code 5, one line, no stump; afterwards they work."""
    outcome, run = Outcome(), disk / "run"
    shutil.copytree(toy.whole, run)
    before = set(run.rglob("*"))
    for name, arguments in commands.items():
        outcome.trials += 1
        filler = disk / "filler"
        fill_disk(str(filler))
        given = [name, str(run), *arguments]
        ended = toy.forks(given)
        outcome.check(ended.code == 5 and one_line(ended.err), f"{name}: exit code {ended.code}: {ended.err}")
        outcome.check(SPACE.search(ended.err) is not None, f"{name}: said {ended.err}")
        files = [p for p in set(run.rglob("*")) - before if p.is_file()]
        outcome.check(not any(p.stat().st_size == 0 or storage.TEMPORARY in p.name for p in files), f"{name}: {files}")
        filler.unlink()
        ended = toy.forks(given)
        outcome.check(ended.code == 0, f"{name}: with room, exit code {ended.code}: {ended.err}")
        before = set(run.rglob("*"))
    return outcome


def unwritable(toy: Toy, run: Path, *faults: dict[str, Any]) -> Outcome:
    """R12. ``run`` cannot be written: training is refused before images are looked at; sampling works elsewhere."""
    outcome = Outcome(trials=3)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    ended = toy.forks(toy.train(run, steps=toy.steps + 5), *faults, {"kind": "blind"})
    outcome.check(ended.code == 5 and one_line(ended.err), f"train: exit code {ended.code}: {ended.err}")
    out = toy.root / f"from-{run.parent.name}"
    ended = toy.forks(["sample", str(run), "-n", "3", "--steps", "4", "--out", str(out)], *faults)
    outcome.check(ended.code == 0, f"sample: exit code {ended.code}: {ended.err}")
    outcome.check(len(list(out.glob("*.png"))) == 4, "sample: pictures are missing")
    ended = toy.forks(["sample", str(run), "-n", "3", "--steps", "4"], *faults)
    outcome.check(ended.code == 5 and "--out" in ended.err, f"sample into it: exit code {ended.code}: {ended.err}")
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    outcome.check(after == before, "the run was changed")
    return outcome


def locked_for_a_while(toy: Toy) -> Outcome:
    """R12. A run folder that loses its write permission in the middle and gets it back."""
    outcome, run = Outcome(trials=1), toy.folder("locked")
    since, until = toy.save + 2, 3 * toy.save + 2
    faults = [{"kind": "unprivileged"}] if os.getuid() == 0 else []
    ended = toy.forks(toy.train(run), *faults, {"kind": "locked", "folder": str(run), "since": since, "until": until})
    outcome.check(ended.code == 0, f"exit code {ended.code}: {ended.err}")
    outcome.check(len(warnings(ended.err)) == 3 and "Permission denied" in ended.err, f"said {ended.err}")
    _check_spared(outcome, toy, run, "locked for a while")
    return outcome


def _check_spared(outcome: Outcome, toy: Toy, run: Path, where: str) -> None:
    """Nothing but the one preview that the disk refused is missing at the end."""
    refused = [f"previews/step-{toy.preview:09d}.png"]
    found = differences(run, toy.whole, older=False)
    outcome.check(found == refused, f"{where}: differs from the whole run in {found[:4]}, not in {refused}")
