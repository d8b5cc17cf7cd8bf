"""Imports once, then forks a process for every command it is told, and treats that in the way it is told.

Reads one JSON list of jobs per line and answers with one JSON list of what became of them. A job has ``arguments`` of
the command line, ``faults`` that its process does to itself (:mod:`reliability.faults`), and ``signals`` that it gets:
``{"signal": 9, "after": seconds, "exists": path}`` is sent so long after it began, or after the path appeared.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from typing import IO, Any

import torch
import torch._dynamo

from alphabar.cli import loop, train
from alphabar.cli.main import main
from reliability import faults

POLL = 0.002
COMMANDS = ("evaluate", "figures", "inspect", "sample")


def make_cheap() -> None:
    """Import all, and leave out what is not under test: timed steps that are thrown away, large previews."""
    torch.set_num_threads(1)
    for name in COMMANDS:
        importlib.import_module(f"alphabar.cli.{name}")
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    train._seconds_per_step = lambda *given, **named: 0.01
    loop.HELD_OUT_IMAGES = 32
    loop.PREVIEW_IMAGES = 4


def child(job: dict[str, Any], barrier: int, out: IO[str], err: IO[str]) -> None:
    """One command in a process of its own; never returns."""
    code = 99
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = out, err
        for fault in job["faults"]:
            faults.install(fault, barrier)
        code = main(job["arguments"])
        faults.at_end()
    finally:
        with contextlib.suppress(OSError, ValueError):
            out.flush()
            err.flush()
        os._exit(code)


class Child:
    """A forked command, and the signals it is still to get."""

    def __init__(self, job: dict[str, Any], barrier: int) -> None:
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.began = time.monotonic()
        self.signals = [dict(s) for s in job.get("signals", ())]
        self.result: list[Any] | None = None
        self.process = os.fork()
        if self.process == 0:
            child(job, barrier, self.out, self.err)

    def poll(self) -> bool:
        """Send what is due; whether the process has ended."""
        pid, status = os.waitpid(self.process, os.WNOHANG)
        now = time.monotonic()
        if pid:
            self.out.seek(0)
            self.err.seek(0)
            code = os.waitstatus_to_exitcode(status)
            self.result = [code, self.out.read(), self.err.read(), now - self.began]
            return True
        for wanted in list(self.signals):
            if wanted.get("exists") is not None:
                if os.path.exists(wanted["exists"]):
                    wanted.update(exists=None, after=now - self.began + wanted["after"])
                continue
            if now - self.began >= wanted["after"]:
                os.kill(self.process, wanted["signal"])
                self.signals.remove(wanted)
        return False


def serve(jobs: list[dict[str, Any]]) -> list[Any]:
    """All jobs at once; what became of each."""
    reader, writer = os.pipe()
    children = [Child(job, reader) for job in jobs]
    # closing the pipe opens the barrier, once everyone is there
    running = list(children)
    opened = time.monotonic() + (0.5 if len(jobs) > 1 else 0)
    while running:
        if writer is not None and time.monotonic() >= opened:
            os.write(writer, b"x" * len(jobs))
            os.close(writer)
            writer = None
        running = [c for c in running if not c.poll()]
        time.sleep(POLL)
    if writer is not None:
        os.close(writer)
    os.close(reader)
    return [c.result for c in children]


if __name__ == "__main__":
    make_cheap()
    print("ready", flush=True)
    for line in sys.stdin:
        answer = json.dumps(serve(json.loads(line)))
        print(answer, flush=True)
