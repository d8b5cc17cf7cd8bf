"""Runs that cannot be lost: kills, crashes, power cuts, full disks, damage, signals, races, clocks, in many trials.

    python scripts/lost_runs.py                 every row at its size for a release
    python scripts/lost_runs.py --share 0.1     a tenth of the trials of the random ones
    python scripts/lost_runs.py --only R1 R17   some rows; the others keep the results they have

Writes docs/results/reliability.{json,md}. The trials are those of tests/reliability, whose sizes are smaller. Exit
status 1 if anything failed. Needs Linux; a real full disk and read-only mounts need root: without, they are left out,
and the facts of their row in the JSON file say so.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from reliability import corruption, crashes, disks, kills, soak, surroundings
from reliability.runner import Forks, Outcome, Toy

TITLE = "Runs that cannot be lost"
PROMISES = {
    "R1": "`kill -9` at random times",
    "R2": "death before every operation of a save, and of a start",
    "R3": "power cut: every legal state of the disk",
    "R4": "disk full, or broken, at every operation; a real full disk",
    "R5": "random damage to a checkpoint",
    "R8": "SIGTERM, SIGUSR1, Ctrl-C at random times; Ctrl-C twice",
    "R10": "two writers at once; a writer that died",
    "R11": "clocks two years off, and running backwards",
    "R12": "read-only, immutable, not permitted; at the start and for a while",
    "R14": "images added, taken away, changed",
    "R16": "prefetch, saves, previews, threads",
    "R17": "2,000 steps with faults of every kind",
}


@dataclass
class Place:
    """Where the trials run, and how many of the random ones."""

    forks: Forks
    root: Path
    toy: Toy
    short: Toy
    share: float

    def count(self, release: int) -> int:
        return max(1, round(release * self.share))


def joined(*outcomes: Outcome) -> Outcome:
    """Several experiments as one row."""
    whole = Outcome()
    for outcome in outcomes:
        whole.trials += outcome.trials
        whole.failures += outcome.failures
        whole.facts.update(outcome.facts)
        whole.slowest = max(whole.slowest, outcome.slowest)
    return whole


def keep(toy: Toy) -> None:
    """Have every checkpoint of the undisturbed run at hand, to compare bytes with."""
    if not (toy.root / "checkpoints").exists():
        crashes.keep_checkpoints(toy)


def power_cuts(place: Place) -> Outcome:
    keep(place.short)
    return crashes.cut_power(place.short, "power", max(1, round(4 / place.share)))


def deaths(place: Place) -> Outcome:
    keep(place.short)
    every = max(1, round(1 / place.share))
    return joined(
        *(crashes.crash_in_save(place.short, step, every) for step in (5, 10, 15, 20)),
        crashes.crash_in_start(place.short, every),
    )


def full_disks(place: Place) -> Outcome:
    codes = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)[: place.count(4)]
    keep(place.short)
    found = [
        disks.refuse_in_save(place.short, step, code, required)
        for step, required in ((10, False), (15, False), (20, True))
        for code in codes
    ]
    found += [disks.no_room_to_start(place.short), disks.files_too_large(place.short)]
    commands = {
        "sample": ["-n", "70", "--steps", "2"],
        "evaluate": ["-n", "4"],
        "figures": ["--only", "schedule", "--n", "2"],
    }
    with disks.small_disk(place.root / "disk") as disk:
        if disk is not None:
            found.append(disks.fill_up(place.short, disk))
    with disks.small_disk(place.root / "disk-of-a-run") as disk:
        if disk is not None:
            found.append(disks.full_for_other_commands(place.short, disk, commands))
    whole = joined(*found)
    whole.facts["a real full disk"] = disk is not None
    return whole


def unwritable(place: Place) -> Outcome:
    found, done = [disks.locked_for_a_while(place.short)], {}
    for name, made in (("read-only mount", disks.read_only), ("immutable folder", disks.immutable)):
        run = place.short.folder(name.replace(" ", "-"))
        shutil.copytree(place.short.whole, run)
        with made(run) as possible:
            done[name] = possible
            if possible:
                found.append(disks.unwritable(place.short, run))
    whole = joined(*found)
    whole.facts.update(done)
    return whole


def long_soak(place: Place) -> Outcome:
    root = place.root / "long"
    root.mkdir()
    toy = Toy(place.forks, root, steps=place.count(2000), save=20, preview=100)
    outcome = soak.soak(toy, faults=place.count(40), seed=17)
    memory = soak.memory_growth(toy)
    outcome.check(memory < 0.05, f"resident memory grew by {memory:.1%}")
    outcome.facts.update({"steps": toy.steps, "growth of resident memory": round(memory, 4)})
    return outcome


ROWS: dict[str, Callable[[Place], Outcome]] = {
    "R1": lambda p: kills.kill_at_random(p.toy, p.count(500), seed=101),
    "R2": deaths,
    "R3": power_cuts,
    "R4": full_disks,
    "R5": lambda p: corruption.corrupt_at_random(p.short, p.count(500), seed=105, continued=p.count(20)),
    "R8": lambda p: joined(
        kills.signal_at_random(p.toy, p.count(60), seed=108),
        kills.second_interrupt(p.short, step=10),
        kills.stop_before_training(p.short),
    ),
    "R10": lambda p: joined(surroundings.race(p.short, p.count(20)), surroundings.late_writer(p.short)),
    "R11": lambda p: surroundings.wrong_clocks(p.short),
    "R12": unwritable,
    "R14": lambda p: surroundings.change_data(p.short),
    "R16": lambda p: surroundings.change_settings(p.short),
    "R17": long_soak,
}


def table(rows: dict[str, Any]) -> list[str]:
    lines = [
        "A toy run (60 steps, a checkpoint every 5; or 20 steps) is disturbed, checked, and continued by the same",
        "command; the finished folder is compared byte by byte with that of an undisturbed run: weights, averages,",
        "moments, log (without the seconds of a step), previews, settings. Recovery is the slowest session that",
        "continued a run to its end, with the rest of the training in it.",
        "",
        "| row | fault | trials | failures | slowest recovery |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        slowest = f"{row['slowest_recovery_seconds']:.1f} s" if row["slowest_recovery_seconds"] else "–"
        lines.append(f"| {name} | {PROMISES[name]} | {row['trials']:,} | {len(row['failures'])} | {slowest} |")
    shares = sorted({row["share"] for row in rows.values()})
    lines += [
        "",
        "Share of the release's number of random trials: " + ", ".join(f"{share:g}" for share in shares) + ".",
    ]
    for name, row in rows.items():
        lines += [f"{name}: {failure}" for failure in row["failures"]]
    return lines


def kept_rows() -> dict[str, Any]:
    """The rows of the last campaign."""
    file = results.RESULTS / "reliability.json"
    return json.loads(file.read_text())["rows"] if file.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root, forks = Path(tempfile.mkdtemp(prefix="alphabar-reliability-", dir=memory)), Forks()
    try:
        for name in ("toy", "short"):
            (root / name).mkdir()
        short = Toy(forks, root / "short", steps=20, save=5, preview=10)
        place = Place(forks, root, Toy(forks, root / "toy"), short, options.share)
        for name in options.only:
            began = time.monotonic()
            outcome = ROWS[name](place)
            rows[name] = {
                "fault": PROMISES[name],
                "trials": outcome.trials,
                "failures": outcome.failures,
                "slowest_recovery_seconds": round(outcome.slowest, 2),
                "seconds": round(time.monotonic() - began, 1),
                "share": options.share,
                "facts": outcome.facts,
            }
            print(
                f"{name}: {outcome.trials} trials, {len(outcome.failures)} failures", *outcome.failures[:5], sep="\n  "
            )
            # written after every row: a campaign that is interrupted keeps what it found
            merged = {**(kept_rows() if options.only != list(ROWS) else {}), **rows}
            merged = {key: merged[key] for key in ROWS if key in merged}
            results.write("reliability", TITLE, {"rows": merged}, table(merged))
    finally:
        forks.close()
        shutil.rmtree(root)
    return 1 if any(row["failures"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
