"""One contestant in a process of its own: it is built once, then answers one line of JSON for each line on its input.

    python -m benchmark.worker '{"contestant": "alphabar", "batch": 8, …}'

The first line out describes it (``parameters``, ``actions``, ``torch``, ``peak``); then ``{"do": "step", "count": 3}``
is answered by ``{"seconds": [0.9, 0.9, 0.9], "peak": 612000000}``, and the end of input ends the process. ``peak`` is
the most memory that the process has held, in bytes (on a GPU: that the device has held for it). Failures are
``{"error": "…"}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

__all__ = ["main", "peak_bytes", "serve"]


def peak_bytes(device: str = "cpu") -> int:
    """The most memory this process has held so far."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would begin at what the parent held when it started this process
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(spec_text: str, lines: Iterable[str], out: TextIO) -> None:
    """Build the contestant that ``spec_text`` names, then answer ``lines``."""
    import torch

    from benchmark.contestants import CONTESTANTS
    from benchmark.spec import Spec

    def answer(facts: dict[str, Any]) -> None:
        out.write(json.dumps(facts) + "\n")
        out.flush()

    def finish() -> None:
        if spec.device == "cuda":
            torch.cuda.synchronize()

    try:
        spec = Spec.from_json(spec_text)
        torch.manual_seed(0)
        contestant = CONTESTANTS[spec.contestant](spec)
        answer(
            {
                "parameters": sum(p.numel() for p in contestant.net.parameters()),
                "actions": list(contestant.actions),
                "torch": torch.__version__,
                "peak": peak_bytes(spec.device),
            }
        )
        for line in lines:
            asked = json.loads(line)
            contestant.net.train(asked["do"] == "step")
            action, seconds = contestant.actions[asked["do"]], []
            for _ in range(asked.get("count", 1)):
                finish()
                began = time.perf_counter()
                action()
                finish()
                seconds.append(time.perf_counter() - began)
            answer({"seconds": seconds, "peak": peak_bytes(spec.device)})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:300]})


def main() -> None:
    """What a contestant prints must not come between the answers: its standard output is the standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    facts = json.loads(sys.argv[1])
    torch.set_num_threads(facts["threads"])
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
