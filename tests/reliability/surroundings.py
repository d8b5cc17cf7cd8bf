"""R10, R11, R14, R16: other writers, wrong clocks, other data, other settings of the machine."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from alphabar.weights import checkpoint
from reliability.runner import KILLED, Outcome, Toy, differences, metrics, one_line
from tiny import SETTINGS, pixels

__all__ = ["change_data", "change_settings", "race", "wrong_clocks"]

YEARS = 2 * 365 * 86400.0
NEGATIVE = re.compile(r"(?<![\w.e])-\d+ (s|min|h|d)\b")


def race(toy: Toy, races: int) -> Outcome:
    """R10. Two processes ask for one run folder at once: one trains undisturbed, the other leaves it untouched."""
    outcome = Outcome()
    for number in range(races):
        run = toy.folder(f"race-{number}")
        jobs = []
        for who in ("a", "b"):
            fault = {"kind": "race", "root": str(run.parent), "report": str(toy.root / f"race-{number}-{who}.json")}
            jobs.append({"arguments": toy.train(run), "faults": [fault], "signals": []})
        both = toy.forks.together(jobs)
        outcome.trials += 1
        codes = sorted(ended.code for ended in both)
        if codes != [0, 7]:
            outcome.check(False, f"race {number}: exit codes {codes}: {[e.err for e in both]}")
            continue
        index = next(i for i, ended in enumerate(both) if ended.code == 7)
        did = json.loads((toy.root / f"race-{number}-{'ab'[index]}.json").read_text())
        # both may have made the folder that they then ask for
        did = [what for what in did if not what.startswith("mkdir ") and what != f"fsync {run.parent}"]
        outcome.check(not did, f"race {number}: the loser did {did}")
        outcome.check(one_line(both[index].err) and "in use by pid" in both[index].err, both[index].err)
        outcome.slowest = max(outcome.slowest, both[index].seconds)
        found = differences(run, toy.whole)
        outcome.check(not found, f"race {number}: the winner differs from the whole run in {found[:4]}")
    return outcome


def late_writer(toy: Toy) -> Outcome:
    """R10. A second process is refused before it looks at images; a dead one holds nothing."""
    outcome, run = Outcome(trials=2), toy.folder("late")
    hold = {"arguments": toy.train(run), "faults": [{"kind": "hold", "path": str(run.parent / "go")}], "signals": []}
    late = {
        "arguments": toy.train(run),
        "faults": [{"kind": "blind_when", "exists": str(run / "run.json"), "then": str(run.parent / "go")}],
        "signals": [],
    }
    first, second = toy.forks.together([hold, late])
    outcome.check(first.code == 0, f"first: {first.code} {first.err}")
    outcome.check(second.code == 7 and one_line(second.err), f"second: {second.code} {second.err}")
    found = differences(run, toy.whole)
    outcome.check(not found, f"first: differs from the whole run in {found[:4]}")
    dead = toy.folder("dead")
    assert toy.forks(toy.train(dead), {"kind": "die_at_step", "step": toy.save + 1}).code == KILLED
    said = toy.forks(["inspect", str(dead)])
    outcome.check("ended without a word" in said.out, f"inspect said {said.out} {said.err}")
    toy.finish(dead, outcome, "after a dead holder")
    outcome.check("finished, step" in toy.forks(["inspect", str(dead)]).out, "inspect does not say finished")
    return outcome


def wrong_clocks(toy: Toy) -> Outcome:
    """R11. Clocks two years back, ahead, and running backwards by a day at every look, each in the middle of a run."""
    outcome = Outcome()
    for name, seconds, jump in (("back", -YEARS, 0.0), ("ahead", YEARS, 0.0), ("jumping", 0.0, -86400.0)):
        run = toy.folder(f"clock-{name}")
        saved, outcome.trials = 2 * toy.save, outcome.trials + 1
        assert toy.forks(toy.train(run), {"kind": "die_at_step", "step": saved + 1}).code == KILLED
        # the newest by the clock is the oldest by its step
        for age, path in enumerate(checkpoint.steps(run)):
            os.utime(path, (YEARS * 10 + age * YEARS, YEARS * 10 + age * YEARS))
        ended = toy.forks(toy.train(run), {"kind": "clock", "seconds": seconds, "jump": jump})
        outcome.check(ended.code == 0, f"{name}: exit code {ended.code}: {ended.err}")
        outcome.check(f"resuming     at step {saved}" in ended.out, f"{name}: {ended.out}")
        outcome.check(NEGATIVE.search(ended.out) is None, f"{name}: negative times in {ended.out}")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        outcome.check(all(line.get("seconds", 0) >= 0 for line in lines), f"{name}: negative seconds in the log")
        found = differences(run, toy.whole)
        outcome.check(not found, f"{name}: differs from the whole run in {found[:4]}")
    return outcome


def change_data(toy: Toy) -> Outcome:
    """R14. Images added, taken away or changed since the run began: exit code 3, and the run is as it was."""
    outcome, folder = Outcome(), toy.root / "pictures"
    folder.mkdir()
    for number, image in enumerate(pixels(14)[:, 0]):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    run = toy.folder("data")
    arguments = ["train", str(folder), "--out", str(run), *SETTINGS, "run.save_every=2", "data.held_out=2"]
    ended = toy.forks([*arguments, "--steps", "4"])
    assert ended.code == 0, ended.err

    def add() -> None:
        Image.fromarray(pixels(1)[0, 0]).save(folder / "new.png")

    def take() -> None:
        (folder / "03.png").unlink()

    def change() -> None:
        Image.fromarray(255 - pixels(14)[5, 0]).save(folder / "05.png")

    for what in (add, take, change):
        kept = {path: path.read_bytes() for path in folder.iterdir()}
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
        what()
        ended = toy.forks([*arguments, "--steps", "8"])
        outcome.trials += 1
        outcome.check(ended.code == 3 and one_line(ended.err), f"{what.__name__}: exit code {ended.code}: {ended.err}")
        after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
        outcome.check(after == before, f"{what.__name__}: the run was changed")
        shutil.rmtree(folder)
        folder.mkdir()
        for path, data in kept.items():
            path.write_bytes(data)
    ended = toy.forks([*arguments, "--steps", "8"])
    outcome.check(ended.code == 0, f"with the images back: exit code {ended.code}: {ended.err}")
    return outcome


def change_settings(toy: Toy) -> Outcome:
    """R16. Batches ahead, previews and saves change nothing; another number of threads only the rounding."""
    outcome = Outcome()
    last = f"step-{toy.steps:09d}"
    for name, settings, faults in (
        ("one batch ahead", [], [{"kind": "ahead", "batches": 1}]),
        ("sixteen batches ahead", [], [{"kind": "ahead", "batches": 16}]),
        ("rare saves", [f"run.save_every={toy.steps}"], []),
        ("many previews", ["run.preview_every=3"], []),
    ):
        run = toy.folder(name.replace(" ", "-"))
        ended = toy.forks(toy.train(run, *settings), *faults)
        outcome.trials += 1
        outcome.check(ended.code == 0, f"{name}: exit code {ended.code}: {ended.err}")
        for file in ("ema.safetensors", "net.safetensors", "optimizer.safetensors"):
            one, other = (run / last / file).read_bytes(), (toy.whole / last / file).read_bytes()
            outcome.check(one == other, f"{name}: {file} differs")
    run = toy.folder("threads")
    ended = toy.forks(toy.train(run, "run.threads=2"))
    outcome.trials += 1
    outcome.check(ended.code == 0, f"two threads: exit code {ended.code}: {ended.err}")
    pairs = list(zip(losses(run), losses(toy.whole), strict=True))
    close = all(math.isclose(a, b, rel_tol=1e-5) for a, b in pairs)
    outcome.check(close, "two threads: losses differ by more than 1e-5")
    outcome.facts = {"largest difference of losses with two threads": float(max(np.abs([a / b - 1 for a, b in pairs])))}
    return outcome


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run / "metrics.jsonl") if "loss" in line]
