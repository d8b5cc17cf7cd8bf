"""What a forked command does to itself: die, be refused, see another clock, record. One function per kind of fault."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alphabar.base import storage
from alphabar.cli import loop, train
from alphabar.data import loader
from alphabar.training import trainer
from reliability import power
from reliability.operations import watch

__all__ = ["at_end", "install"]

WRITING = ("put", "half", "mkdir", "fsync", "replace", "rename")
SMALL_DISK = 64 << 20
at_exit: list[Callable[[], None]] = []


def install(fault: dict[str, Any], barrier: int) -> None:
    """Prepare this process for one fault: ``kind`` is a function of this module, the rest its arguments."""
    given = {key: value for key, value in fault.items() if key != "kind"}
    if fault["kind"] == "race":
        given["barrier"] = barrier
    globals()[fault["kind"]](**given)


def at_end() -> None:
    """Write what was recorded."""
    for call in at_exit:
        call()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(root: str, at: int) -> None:
    """Die before the ``at``-th operation on the disk."""
    count = 0

    def before(name: str, path: str) -> None:
        nonlocal count
        count += 1
        if count == at:
            die()

    watch(root, before)


def before_step(actions: dict[int, Callable[[], None]]) -> None:
    """Do something before a step is trained, while the run has so many."""
    real = trainer.train_step

    def step(run: Any, *given: Any) -> Any:
        action = actions.pop(run.step, None)
        if action is not None:
            action()
        return real(run, *given)

    trainer.train_step = step


def die_at_step(step: int) -> None:
    """Die before a step is trained, while the run has so many."""
    before_step({step: die})


def fill_disk(path: str) -> None:
    """Leave no room on the file system of ``path``, which must be a small one made for that."""
    assert shutil.disk_usage(os.path.dirname(path)).total < SMALL_DISK, "this is not the disk to fill"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


def full(path: str, since: int, until: int | None) -> None:
    """A file at ``path`` fills the disk while the run has ``since`` to ``until`` steps (None: for good)."""
    actions: dict[int, Callable[[], None]] = {since: lambda: fill_disk(path)}
    if until is not None:
        actions[until] = lambda: os.unlink(path)
    before_step(actions)


def refuse(root: str, since: int, until: int, code: int, names: list[str] | None = None) -> None:
    """Each operation that needs the disk fails with ``code`` while the run has ``since`` to ``until`` steps."""
    refused = False

    def switch(on: bool) -> Callable[[], None]:
        def set_it() -> None:
            nonlocal refused
            refused = on

        return set_it

    def before(name: str, path: str) -> None:
        if refused and name in (names or WRITING):
            raise OSError(code, os.strerror(code))

    before_step({since: switch(True), until: switch(False)})
    watch(root, before)


def refuse_one(root: str, at: int, code: int) -> None:
    """The ``at``-th operation that needs the disk fails."""
    count = 0

    def before(name: str, path: str) -> None:
        nonlocal count
        if name in WRITING:
            count += 1
            if count == at:
                raise OSError(code, os.strerror(code))

    watch(root, before)


def small_files(size: int) -> None:
    """No file may grow beyond ``size`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def unprivileged() -> None:
    """Be bound by the modes of files even as root."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def locked(folder: str, since: int, until: int) -> None:
    """Nothing may be made in ``folder`` or written to its log while the run has ``since`` to ``until`` steps."""

    def modes(directory: int, file: int) -> Callable[[], None]:
        def change() -> None:
            os.chmod(folder, directory)
            os.chmod(f"{folder}/metrics.jsonl", file)

        return change

    before_step({since: modes(0o555, 0o444), until: modes(0o755, 0o644)})


def blind() -> None:
    """Looking at images is a failure."""

    def opened(*given: Any) -> Any:
        raise AssertionError("the images were opened")

    train.open_source = opened


def explode(root: str, run: str, step: int, into: str, code: int | None) -> None:
    """At the save of ``step``, let copies of this process do it that die before (fail at) each operation in turn.

    ``into``/N is the state of ``root`` that operation N left, and ``into``/N.json what happened: the operation, and
    after a failure the error and whether the save worked when tried again.
    """
    real = loop.Loop.save

    def save(self: Any, *, required: bool) -> None:
        if self.run.step == step:
            pristine = f"{into}/pristine"
            shutil.copytree(root, pristine)
            number = 1
            while _copy_saves(self, real, required, root, number, into, code):
                shutil.move(root, f"{into}/{number}")
                shutil.copytree(pristine, root)
                number += 1
            shutil.rmtree(pristine)
            os._exit(0)
        real(self, required=required)

    loop.Loop.save = save


def _copy_saves(
    self: Any, real: Callable[..., None], required: bool, root: str, number: int, into: str, code: int | None
) -> bool:
    """One copy of the process; whether it met its operation."""
    copy = os.fork()
    if copy:
        return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) != 0
    count = 0
    facts: dict[str, Any] = {}

    def before(name: str, path: str) -> None:
        nonlocal count
        if code is not None and name not in WRITING:
            return
        count += 1
        if count == number:
            facts.update(operation=name, path=path)
            if code is None:
                _note(into, number, facts)
                os._exit(1)
            raise OSError(code, os.strerror(code))

    warned: list[str] = []
    loop.log.warning = lambda text, *given: warned.append(text % given)
    end = watch(root, before)
    try:
        real(self, required=required)
    except Exception as error:
        facts["error"] = repr(error)
    end()
    facts["warned"], facts["stumps"] = warned, sorted(p.name for p in Path(root).rglob(f"{storage.TEMPORARY}*"))
    if count >= number:
        _note(into, number, facts)
    os._exit(1 if count >= number else 0)


def _note(into: str, number: int, facts: dict[str, Any]) -> None:
    Path(f"{into}/{number}.json").write_text(json.dumps(facts))


def interrupt(root: str, step: int, at: int) -> None:
    """Two Ctrl-C at the ``at``-th operation of the save of ``step``."""
    real = loop.Loop.save

    def save(self: Any, *, required: bool) -> None:
        if self.run.step == step:
            count = 0

            def before(name: str, path: str) -> None:
                nonlocal count
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGINT)
                    os.kill(os.getpid(), signal.SIGINT)

            watch(root, before)
        real(self, required=required)

    loop.Loop.save = save


def race(root: str, report: str, barrier: int) -> None:
    """Wait for the other before asking for the lock; report the operations that followed."""
    real = storage.Lock.__init__
    seen: list[str] = []

    def init(self: Any, directory: Path) -> None:
        os.read(barrier, 1)
        watch(root, lambda name, path: seen.append(f"{name} {path}"))
        real(self, directory)

    storage.Lock.__init__ = init
    at_exit.append(lambda: Path(report).write_text(json.dumps(seen)))


def clock(seconds: float, jump: float = 0.0) -> None:
    """A clock that is wrong by ``seconds``, and by ``jump`` more after every look at it."""
    real, real_strftime, looks = time.time, time.strftime, 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return real() + seconds + jump * looks

    time.time = now
    time.strftime = lambda form, moment=None: real_strftime(form, moment or time.localtime(now()))


def ahead(batches: int) -> None:
    """Prepare another number of batches ahead."""
    loader.AHEAD = batches


def record(root: str, into: str) -> None:
    """Keep what :mod:`reliability.power` needs to know of every operation below ``root``."""
    recorder = power.Recorder(Path(root), Path(into))
    watch(root, recorder.before)
    real = loop.Loop.save

    def save(self: Any, *, required: bool) -> None:
        real(self, required=required)
        recorder.before("saved", f"{self.run.step}")

    loop.Loop.save = save
    at_exit.append(recorder.close)


def without_sync(name: str, nth: int) -> None:
    """A mutant of ``storage``: the ``nth`` call of one of its sync functions in a save (0: every call) is left out."""
    real, save, count = getattr(storage, name), loop.Loop.save, 0

    def skipped(path: Path) -> None:
        nonlocal count
        count += 1
        if nth not in (0, count):
            real(path)

    def counted(self: Any, *, required: bool) -> None:
        nonlocal count
        count = 0
        save(self, required=required)

    setattr(storage, name, skipped)
    loop.Loop.save = counted


def resident(report: str) -> None:
    """Report the resident memory at every save, in bytes, by step."""
    real, seen = loop.Loop.save, {}

    def save(self: Any, *, required: bool) -> None:
        real(self, required=required)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen[self.run.step] = pages * resource.getpagesize()

    loop.Loop.save = save
    at_exit.append(lambda: Path(report).write_text(json.dumps(seen)))


def stopped_while_reading() -> None:
    """A scheduler ends this process while it reads its images."""
    real = train.open_watched

    def opened(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    train.open_watched = opened


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def hold(path: str) -> None:
    """Train one step, then wait for a file to appear."""
    before_step({1: lambda: wait_for(path)})


def blind_when(exists: str, then: str) -> None:
    """Begin once a file exists; looking at images is a failure; make another file at the end."""
    wait_for(exists)
    blind()
    at_exit.append(lambda: Path(then).touch())
