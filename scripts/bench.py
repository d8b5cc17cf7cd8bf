"""Speed and memory of what this version promises. ``make bench`` runs it; results go to ``docs/results/speed.*``.

    python scripts/bench.py

- Loader: share of the time that training on the digits waits for a batch (promise: below 5 %).
- Sampling: time of the loop around the network as a share of the network's own time, at 32x32 (below 10 %).
- Memory: peak of sampling with 20 and with 1000 steps (equal).
- Start: ``import alphabar`` (below 2 s) and ``alphabar --help`` (below 0.3 s), best of five.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from results import write

import alphabar as ab
from alphabar.model.nn import CIFAR10
from alphabar.runtime.config import from_tables, merge
from alphabar.runtime.recipes import recipe
from alphabar.samplers.generate import frames
from alphabar.training.trainer import build, fit


def loader_wait(steps: int = 150) -> dict[str, float]:
    """Seconds that training on the digits waits for batches, and their share."""
    images = ab.open_source("digits")
    tables = merge(recipe(images.shape, len(images)), {"run": {"steps": steps + 10}})
    run = build(from_tables(tables), images)
    metrics = fit(run)
    for _ in range(10):
        next(metrics)
    waited, began = run.loader.waited_seconds, time.perf_counter()
    for _ in metrics:
        pass
    seconds = time.perf_counter() - began
    waiting = run.loader.waited_seconds - waited
    return {"ms_per_step": 1000 * seconds / steps, "waiting_share": waiting / seconds}


class Stopwatch(torch.nn.Module):
    """A network that measures the time spent inside itself."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.seconds = net, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        out: torch.Tensor = self.net(x, t)
        self.seconds += time.perf_counter() - began
        return out


def sampling_overhead(batch: int = 16, steps: int = 40, rounds: int = 5) -> dict[str, float]:
    """Time outside the network over time inside it, ancestral sampling of 3x32x32 by a small U-Net; median."""
    net = ab.UNet(base_channels=32, base_channels_multiples=(1, 2, 2), apply_attention=(False, True, False))
    watch = Stopwatch(net.to(memory_format=torch.channels_last).eval())
    schedule = ab.schedules.Linear().build()
    denoiser = ab.Denoiser(watch, schedule, shape=(3, 32, 32), variance=ab.FixedSmall())
    chain = ab.Chain.spaced(schedule, steps)
    shares = []
    for _ in range(rounds + 1):
        watch.seconds, began = 0.0, time.perf_counter()
        for _ in frames(denoiser, ab.samplers.Ancestral(), chain, range(batch)):
            pass
        shares.append((time.perf_counter() - began - watch.seconds) / watch.seconds)
    return {"overhead_share": statistics.median(shares[1:]), "ms_per_hop_in_network": 1000 * watch.seconds / steps}


def peak_after(steps: int) -> float:
    """Peak memory in MB of a process that samples 64 images of 3x32x32 in ``steps`` steps of a trivial network."""
    code = f"""
import resource, torch, alphabar as ab
from alphabar.samplers.generate import frames
schedule = ab.schedules.Linear().build()
denoiser = ab.Denoiser(lambda x, t: 0.1 * x, schedule, shape=(3, 32, 32), variance=ab.FixedSmall())
for frame in frames(denoiser, ab.samplers.Ancestral(), ab.Chain.spaced(schedule, {steps}), range(64)): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def best_of(n: int, command: list[str]) -> float:
    """Wall seconds of a command, the best of ``n``."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - began

    return min(once() for _ in range(n))


def cifar_step(batch: int = 8, rounds: int = 3) -> dict[str, float]:
    """Seconds per image of the paper's CIFAR-10 network: evaluation forward, float32 and bfloat16 inside."""
    net = ab.UNet(**dataclasses.asdict(CIFAR10)).to(memory_format=torch.channels_last).eval()
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    t = torch.randint(0, 1000, (batch,))

    def timed(step: Callable[[], object]) -> float:
        step()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return 1000 * statistics.median(times) / batch

    def bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            net(x, t)

    with torch.no_grad():
        return {"fp32_ms_per_image": timed(lambda: net(x, t)), "bf16_ms_per_image": timed(bf16)}


def main() -> None:
    facts = {
        "loader": loader_wait(),
        "sampling": sampling_overhead(),
        "memory_mb": {str(steps): peak_after(steps) for steps in (20, 1000)},
        "start_seconds": {
            "import alphabar": best_of(5, [sys.executable, "-c", "import alphabar; alphabar.Denoiser"]),
            "alphabar --help": best_of(5, [sys.executable, "-m", "alphabar", "--help"]),
        },
        "cifar10_forward": cifar_step(),
    }
    loader, sampling, memory, start = (facts[k] for k in ("loader", "sampling", "memory_mb", "start_seconds"))
    cifar = facts["cifar10_forward"]
    write(
        "speed",
        "Speed and memory",
        facts,
        [
            "| what | measured | promise |",
            "|---|---|---|",
            f"| training on the digits waits for data | {100 * loader['waiting_share']:.2f} % of "
            f"{loader['ms_per_step']:.0f} ms per step | < 5 % |",
            f"| sampling loop outside the network, 32x32 | {100 * sampling['overhead_share']:.1f} % of the network's "
            f"{sampling['ms_per_hop_in_network']:.1f} ms per hop | ≤ 10 % |",
            f"| peak memory of sampling, 20 / 1000 steps | {memory['20']:.0f} / {memory['1000']:.0f} MB | equal |",
            f"| `import alphabar` and its first use of torch | {start['import alphabar']:.2f} s | ≤ 2 s |",
            f"| `alphabar --help` | {start['alphabar --help']:.2f} s | ≤ 0.3 s |",
            f"| paper's CIFAR-10 network, forward, per image | {cifar['fp32_ms_per_image']:.1f} ms in float32, "
            f"{cifar['bf16_ms_per_image']:.1f} ms in bfloat16 | – |",
        ],
    )


if __name__ == "__main__":
    main()
