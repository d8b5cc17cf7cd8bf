"""R2 and R3: death, or a power cut, at every operation of a save: the checkpoint before or the new one, no third."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alphabar.weights import checkpoint
from reliability import power
from reliability.runner import KILLED, Outcome, Toy, log_fits, newest

__all__ = ["crash_in_save", "crash_in_start", "cut_power", "forget_sync", "keep_checkpoints"]


def crash_in_save(toy: Toy, step: int, every: int) -> Outcome:
    """R2. A process dies before each operation of the save of ``step``; every so many-th is continued to the end."""
    outcome, run = Outcome(), toy.folder(f"crash-{step}")
    into = run.parent.with_name(f"crash-{step}-states")
    into.mkdir()
    fault = {"kind": "explode", "root": str(run.parent), "run": str(run), "step": step, "into": str(into), "code": None}
    ended = toy.forks(toy.train(run), fault)
    assert ended.code == 0, ended.err
    seen = set()
    for note in sorted(into.glob("*.json"), key=lambda path: int(path.stem)):
        facts = json.loads(note.read_text())
        state = into / note.stem / "run"
        outcome.trials += 1
        seen.add(facts["operation"])
        where = f"death at operation {note.stem} ({facts['operation']} {Path(facts['path']).name}) of the save"
        check_state(outcome, toy, state, where, {step - toy.save, step})
        if outcome.trials % every == 0:
            toy.finish(state, outcome, where)
    outcome.facts = {"operations": sorted(seen)}
    return outcome


def check_state(outcome: Outcome, toy: Toy, run: Path, where: str, allowed: set[int]) -> None:
    """The newest checkpoint is one of the allowed, with the bytes it was given, and the log belongs to it."""
    reached = newest(run)
    outcome.check(reached in allowed, f"{where}: the newest checkpoint is {reached}, allowed are {sorted(allowed)}")
    outcome.check(not log_fits(run, toy.whole), f"{where}: the log has {log_fits(run, toy.whole)}")
    wanted = toy.root / "checkpoints" / f"step-{reached:09d}"
    if reached and wanted.exists():
        fine = all((run / wanted.name / p.name).read_bytes() == p.read_bytes() for p in wanted.iterdir())
        outcome.check(fine, f"{where}: {wanted.name} has other bytes")


def crash_in_start(toy: Toy, every: int) -> Outcome:
    """R2. A killed run with half-written files is continued by processes that die at operations of their start."""
    outcome, broken = Outcome(), toy.folder("broken")
    first = {"kind": "crash", "root": str(broken.parent), "at": 150}
    assert toy.forks(toy.train(broken), first).code == KILLED
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    shutil.copytree(checkpoint.steps(broken)[0], broken / ".tmp-step-000000099-7")
    at, saved = 1, newest(broken)
    while at <= 60:
        run = broken.parent.with_name(f"start-{at}") / "run"
        shutil.copytree(broken, run)
        ended = toy.forks(toy.train(run), {"kind": "crash", "root": str(run.parent), "at": at})
        outcome.trials += 1
        outcome.check(newest(run) >= saved, f"death at operation {at} of a start: step {saved} is gone")
        if newest(run) > saved:
            break
        outcome.check(ended.code == KILLED, f"death at operation {at} of a start: {ended.code} {ended.err}")
        at += every
    toy.finish(run, outcome, "after deaths in the start")
    return outcome


def record(toy: Toy, name: str, *faults: dict[str, Any]) -> Path:
    """The record of one undisturbed run in a new folder below a new folder."""
    root = toy.root / name
    root.mkdir()
    into = toy.root / f"{name}-record"
    run = root / "runs" / "run"
    watched = {"kind": "record", "root": str(root), "into": str(into)}
    ended = toy.forks(toy.train(run), watched, *faults)
    assert ended.code == 0, ended.err
    return into


def cut_power(toy: Toy, name: str, every: int) -> Outcome:
    """R3. Every state after a power cut in a run; every so many-th is continued to the end."""
    outcome, into = Outcome(), record(toy, name)
    for run, where in states_of(toy, into, outcome):
        if outcome.trials % every == 0:
            toy.finish(run, outcome, where)
    outcome.facts = {"operations": power.points(into)}
    shutil.rmtree(into)
    return outcome


def states_of(toy: Toy, into: Path, outcome: Outcome) -> Iterator[tuple[Path, str]]:
    """Every state after a power cut in a recorded run, made on the disk and checked."""
    place = into.with_name(f"{into.name}-state")
    for state in power.states(into):
        outcome.trials += 1
        place.mkdir()
        state.write(place)
        run = place / "runs" / "run"
        where = f"power cut before operation {state.point} ({state.operation}), variant {outcome.trials}"
        check_state(outcome, toy, run, where, {state.saved, min(state.saved + toy.save, toy.steps)})
        yield run, where
        shutil.rmtree(place)


def forget_sync(toy: Toy, name: str, nth: int) -> Outcome:
    """R3. The same without one of the syncs of a save (0: without all of a name), to the first state that is wrong."""
    outcome = Outcome()
    into = record(toy, f"mutant-{name}-{nth}", {"kind": "without_sync", "name": name, "nth": nth})
    for _ in states_of(toy, into, outcome):
        if outcome.failures:
            break
    return outcome


def keep_checkpoints(toy: Toy) -> None:
    """Every checkpoint of the undisturbed run, to compare bytes with."""
    if (toy.root / "checkpoints").exists():
        return
    run = toy.folder("keep-all")
    ended = toy.forks(toy.train(run, "run.keep=1000"))
    assert ended.code == 0, ended.err
    os.rename(run, toy.root / "checkpoints")
