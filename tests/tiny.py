"""Runs small enough to train in a test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.cli.main import main
from alphabar.data.batch import Images
from alphabar.model.nn import UNet, UNetConfig
from alphabar.model.variance import FixedSmall
from alphabar.process.schedules import Linear
from alphabar.training.config import DataConfig, RunConfig, RunSettings
from alphabar.training.ema import EmaConfig
from alphabar.training.optim import OptimConfig

# Two threads on a busy machine wait for each other far longer than such networks compute.
torch.set_num_threads(1)

NET = UNetConfig(
    input_channels=1,
    output_channels=1,
    num_res_blocks=1,
    base_channels=8,
    base_channels_multiples=(1, 2),
    apply_attention=(False, True),
    dropout_rate=0.0,
    total_time_steps=None,
    attention_heads=1,
    norm_groups=4,
)
# The same size for the command line.
SETTINGS = [
    "net.base_channels=4",
    "net.norm_groups=2",
    "net.attention_heads=1",
    "net.base_channels_multiples=[1]",
    "net.apply_attention=[false]",
    "net.dropout_rate=0.2",
    "net.num_res_blocks=1",
    "net.patch_size=1",
    "objective.kind=simple",
    "schedule.T=8",
    "run.batch=8",
    "data.flip=true",
]


def pixels(n: int = 40, channels: int = 1, size: int = 8) -> np.ndarray:
    """Ramps of different slope and height with a little noise: uint8 [n, channels, size, size]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, size)[None, None, None, :] * rng.uniform(0.5, 1, (n, channels, 1, 1))
    return (20 + 200 * ramp + rng.uniform(0, 5, (n, channels, size, size))).astype(np.uint8)


def images(n: int = 40, classes: int = 0, channels: int = 1) -> Images:
    """``n`` different images, with labels where classes are asked for."""
    labels = np.arange(n, dtype=np.int64) % classes if classes else None
    return Images(pixels(n, channels), labels, tuple(f"class {i}" for i in range(classes)), "tiny", "tiny")


def config(**over: Any) -> RunConfig:
    """A run of 6 steps; ``run``, ``net``, ``optim``, ``ema``, ``data`` are dicts of fields, anything else a value."""
    parts: dict[str, Any] = {
        "seed": 3,
        "data": DataConfig(held_out=8, flip=True),
        "schedule": Linear(T=20),
        "variance": FixedSmall(),
        "net": NET,
        "optim": OptimConfig(warmup_steps=2, lr=1e-3),
        "ema": EmaConfig(halflife_images=64),
        "run": RunSettings(steps=6, batch=8),
    }
    for key, value in over.items():
        parts[key] = dataclasses.replace(parts[key], **value) if isinstance(value, dict) else value
    return RunConfig(**parts)


def net(seed: int = 0, **over: Any) -> UNet:
    """The network of :func:`config`, with weights that are nowhere zero."""
    torch.manual_seed(seed)
    made = UNet(**dataclasses.asdict(dataclasses.replace(NET, **over)))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def npz(path: Path, n: int = 40, labels: int = 0) -> Path:
    """A data set file for the command line."""
    extra = {"labels": np.arange(n) % labels} if labels else {}
    np.savez(path, images=pixels(n)[:, 0], **extra)
    return path


def trained_in(root: Path, command: Sequence[str]) -> Path:
    """``root`` with tiny.npz and the run that ``command`` makes of it there."""
    npz(root / "tiny.npz")
    with contextlib.chdir(root):
        assert main(list(command)) == 0
    return root


def moved(trained: Path, root: Path) -> Path:
    """A copy of such a folder at ``root``, whose run knows its images there."""
    shutil.copytree(trained, root)
    config = root / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(trained), str(root)))
    return root


def reseal(folder: Path) -> None:
    """Make the manifest of a checkpoint agree with its files again, as an attacker or another version would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in sorted(folder.iterdir())
        if p.name != "manifest.json"
    }
    manifest.pop("sha256", None)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Assert that two sets of tensors are equal bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), f"{name} differs"
