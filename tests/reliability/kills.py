"""R1 and R8: ``kill -9`` and the signals of schedulers, at random moments, until the run is done."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

from reliability.runner import KILLED, Outcome, Toy, differences, metrics, newest, one_line, unloadable

__all__ = ["kill_at_random", "second_interrupt", "signal_at_random", "stop_before_training"]

LATEST = 0.4  # of a whole run: at least three sessions to a run


def kill_at_random(toy: Toy, kills: int, seed: int, samples: bool = True) -> Outcome:
    """R1. ``kills`` deaths in as many runs as that takes; each is continued to its end."""
    rng, outcome, finished = random.Random(seed), Outcome(), 0
    while outcome.trials < kills:
        run, last = toy.folder(f"kills-{seed}-{finished}"), 0
        while True:
            after = rng.uniform(0.005, LATEST * toy.seconds) if outcome.trials < kills else 1e9
            ended = toy.forks(toy.train(run), signals=[{"signal": signal.SIGKILL, "after": after}])
            where = f"run {finished}, killed after {after:.3f} s"
            bad, reached = unloadable(run), newest(run)
            outcome.check(not bad, f"{where}: {bad}")
            outcome.check(reached >= last, f"{where}: went back from step {last} to {reached}")
            last = reached
            if ended.code == 0:
                outcome.slowest = max(outcome.slowest, ended.seconds)
                break
            outcome.trials += 1
            if ended.code != KILLED:
                outcome.check(False, f"{where}: ended with {ended.code}: {ended.err}")
                break
        found = differences(run, toy.whole)
        outcome.check(not found, f"run {finished}: differs from the whole run in {found[:4]}")
        if samples:
            other = differing_samples(toy, run)
            outcome.check(not other, f"run {finished}: samples differ: {other}")
        finished += 1
    outcome.facts = {"runs": finished}
    return outcome


def differing_samples(toy: Toy, run: Path) -> list[str]:
    """The pictures that the command makes otherwise from ``run`` than from the whole run."""
    made = {}
    for which in (run, toy.whole):
        out = toy.root / f"samples-{which.parent.name}"
        if not out.exists():
            ended = toy.forks(["sample", str(which), "-n", "3", "--steps", "4", "--out", str(out)])
            assert ended.code == 0, ended.err
        made[which] = {p.name: p.read_bytes() for p in out.glob("*.png")}
    return sorted(name for name, data in made[toy.whole].items() if made[run].get(name) != data)


def signal_at_random(toy: Toy, signals: int, seed: int) -> Outcome:
    """R8. SIGTERM, SIGUSR1 and SIGINT in turn: the exit code says so, and no finished step is lost."""
    rng, outcome = random.Random(seed), Outcome()
    kinds = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    run, number = toy.folder(f"signals-{seed}-0"), 0
    while outcome.trials < signals:
        kind = kinds[outcome.trials % 3]
        wanted = {
            "signal": kind,
            "exists": str(run / "run.json"),
            "after": rng.uniform(0, LATEST * toy.seconds),
        }
        (run / "run.json").unlink(missing_ok=True)
        ended = toy.forks(toy.train(run), signals=[wanted])
        if ended.code == 0:
            found = differences(run, toy.whole, older=False)
            outcome.check(not found, f"run {number}: differs from the whole run in {found[:4]}")
            number += 1
            run = toy.folder(f"signals-{seed}-{number}")
            continue
        outcome.trials += 1
        code = 130 if kind == signal.SIGINT else 75
        what = f"{kind.name} in run {number}"
        outcome.check(ended.code == code, f"{what}: exit code {ended.code}, not {code}: {ended.err}")
        trained = [line["step"] for line in metrics(run / "metrics.jsonl") if "loss" in line]
        saved = newest(run)
        outcome.check(trained[-1] == saved, f"{what}: step {trained[-1]} was trained, {saved} is saved")
        status = json.loads((run / "run.json").read_text())
        told = (status["state"], status["step"], status["saved"], status["exit_code"])
        outcome.check(told == ("preempted", saved, saved, code), f"{what}: run.json says {told}")
        said = ended.err.splitlines()
        outcome.check(len(said) == 1 and f"stopped at step {saved} ({kind.name})" in said[0], f"{what}: says {said}")
    outcome.facts = {"finished": number}
    toy.finish(run, outcome, "the last run", older=False)
    return outcome


def second_interrupt(toy: Toy, step: int) -> Outcome:
    """R8. Ctrl-C twice in the middle of a save: it leaves at once, and the checkpoint before is intact."""
    outcome = Outcome()
    for at in (1, 6, 12, 20):
        run = toy.folder(f"interrupt-{at}")
        fault = {"kind": "interrupt", "root": str(run.parent), "step": step, "at": at}
        ended = toy.forks(toy.train(run), fault)
        outcome.trials += 1
        what = f"two Ctrl-C at operation {at} of a save"
        outcome.check(ended.code == 130 and ended.err == "stopped\n", f"{what}: {ended.code} {ended.err}")
        outcome.check(newest(run) == step - toy.save, f"{what}: the checkpoint before is not the newest")
        toy.finish(run, outcome, what)
    return outcome


def stop_before_training(toy: Toy) -> Outcome:
    """R8. SIGTERM while the images are read: exit code 75, and nothing was made."""
    run, outcome = toy.folder("early-signal"), Outcome(trials=1)
    ended = toy.forks(toy.train(run), {"kind": "stopped_while_reading"})
    outcome.check(ended.code == 75 and not run.exists(), f"exit code {ended.code}: {ended.err}")
    outcome.check("before training began (SIGTERM)" in ended.err and not one_line(ended.err), ended.err)
    return outcome
