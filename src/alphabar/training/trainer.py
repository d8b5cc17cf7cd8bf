"""Algorithm 1: the state of a run and one step of it. No files but checkpoints, no printing, no policy."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alphabar.base.errors import CheckpointError, ConfigError, DataError, Diverged, OutOfMemory
from alphabar.base.pixels import Units, to_model_range
from alphabar.base.rng import derive, stream
from alphabar.base.storage import read_json
from alphabar.base.tensors import scale
from alphabar.data.batch import Batch, Images, split
from alphabar.data.loader import Loader
from alphabar.data.sources import open_source
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet
from alphabar.process.chain import Chain
from alphabar.process.equations import q_sample
from alphabar.training.config import RunConfig
from alphabar.training.ema import Ema
from alphabar.training.optim import build_optimizer, lr_at
from alphabar.weights import checkpoint

__all__ = ["Metrics", "Run", "build", "fit", "held_out_loss", "new_denoiser", "resume", "save", "train_step"]


@dataclass(frozen=True)
class Metrics:
    """What one step reports. ``step`` counts finished updates; ``loss`` is the mean over the batch."""

    step: int
    images: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass
class Run:
    """The state of training: everything that changes, beside what defines it."""

    config: RunConfig
    images: Images
    held_out: Images
    denoiser: Denoiser
    ema: Ema
    optimizer: Optimizer
    loader: Loader
    chain: Chain
    device: torch.device
    step: int = 0


def new_denoiser(config: RunConfig, shape: tuple[int, int, int], units: Units | None = None) -> Denoiser:
    """A denoiser with fresh weights, a pure function of ``config`` and its seed.

    Raises:
        ConfigError: if the network does not fit images of this ``shape`` (C, H, W).
    """
    if config.net.input_channels != shape[0]:
        raise ConfigError(f"net.input_channels: got {config.net.input_channels}, the images have {shape[0]}")
    config.net.check_size(*shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        # convolutions are faster with the channels innermost; the function is the same
        net = UNet(**dataclasses.asdict(config.net)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Denoiser(
        net,
        config.schedule.build(),
        shape=shape,
        prediction=config.prediction,
        variance=config.variance,
        time_input=config.time_input,
        clip=config.clip,
        autocast=torch.bfloat16 if config.run.precision == "bf16" else None,
        units=units,
    )


def build(config: RunConfig, images: Images | None = None, device: str | torch.device | None = None) -> Run:
    """A run at step 0. ``images`` are opened from ``config.data.source`` unless given; ``device`` is found.

    Raises:
        DataError: if the images cannot be read.
        ConfigError: if they do not fit the network.
    """
    if images is None:
        images = open_source(config.data.source, config.data.reading())
    if config.net.num_classes and (images.labels is None or len(images.class_names) > config.net.num_classes):
        raise ConfigError(
            f"net.num_classes: got {config.net.num_classes}, the images have {len(images.class_names)} classes"
        )
    train, held_out = split(images, config.seed, config.data.held_out)
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    denoiser = new_denoiser(config, images.shape, images.units).to(where)
    return Run(
        config=config,
        images=train,
        held_out=held_out,
        denoiser=denoiser,
        ema=Ema(denoiser, config.ema, config.run.batch),
        optimizer=build_optimizer(denoiser, config.optim),
        loader=Loader(train, config.run.batch, config.seed, flip=config.data.flip, augment=config.data.augment),
        chain=Chain.full(denoiser.schedule),
        device=where,
    )


def _labels(run: Run, batch: Batch) -> dict[str, Tensor]:
    if not run.config.net.num_classes or batch.y is None:
        return {}
    return {"y": batch.y.to(run.device)}


@contextlib.contextmanager
def _memory_errors(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # torch raises its own class on accelerators, and a plain RuntimeError from the allocator of the CPU
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise OutOfMemory(
                f"out of memory at batch {config.run.batch}; try run.batch={config.run.batch // 2 or 1}"
            ) from error
        raise


def train_step(run: Run, batch: Batch) -> Metrics:
    """Algorithm 1, lines 2–5.  x_0 ~ q, t ~ Uniform{1…T}, ε ~ N(0, I); one gradient step on the objective.

    Every random number is a pure function of (seed, step). The weights are only touched when loss and gradient are
    finite.

    Raises:
        Diverged: if they are not.
        OutOfMemory: if memory is exhausted.
    """
    config, step, began = run.config, run.step, time.perf_counter()
    with _memory_errors(config):
        x0 = to_model_range(batch.x, run.device)
        t, weights = config.times.draw(len(x0), run.chain.schedule.T, stream(config.seed, "t", step))
        eps = stream(config.seed, "eps", step).randn_like(x0)
        tr = run.chain.at(t)
        # dropout is the one consumer of torch's global stream
        torch.manual_seed(derive(config.seed, "dropout", step))
        est = run.denoiser(q_sample(x0, eps, tr.abar_t), tr, **_labels(run, batch))
        loss = scale(config.objective(est, x0, eps, tr), weights).mean()
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(run.denoiser.parameters(), config.optim.clip_norm)
    value, length = loss.item(), norm.item()
    if not (math.isfinite(value) and math.isfinite(length)):
        raise Diverged(
            f"step {step + 1}: loss is {value:.4g} and gradient norm {length:.4g}; lower optim.lr "
            f"(now {config.optim.lr:g})"
        )
    lr = lr_at(step, config.run.steps, config.optim)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.ema.update(run.denoiser, step + 1)
    run.step = step + 1
    return Metrics(
        step=run.step,
        images=run.step * config.run.batch,
        loss=value,
        lr=lr,
        grad_norm=length,
        seconds=time.perf_counter() - began,
    )


def fit(run: Run) -> Iterator[Metrics]:
    """Algorithm 1 from ``run.step`` to the end: one :class:`Metrics` per step."""
    run.denoiser.train()
    for _, batch in run.loader.steps(run.step, run.config.run.steps):
        yield train_step(run, batch)


@torch.no_grad()
def held_out_loss(run: Run, at_least: int = 1024) -> float | None:
    """The objective of the EMA weights on the held-out images at noise and times that never change.

    Each image is used as often as needed to make ``at_least`` of them, with its own t and ε each time, so that values
    of different steps compare. None without held-out images.
    """
    n = len(run.held_out)
    if n == 0:
        return None
    rounds = -(-at_least // n)
    t, weights = _held_out_times(run, n * rounds)
    losses = []
    for start in range(0, n * rounds, 256):
        places = torch.arange(start, min(start + 256, n * rounds))
        batch = run.held_out.gather((places % n).numpy())
        x0 = to_model_range(batch.x, run.device)
        eps = stream(run.config.seed, "held-out eps", start).randn_like(x0)
        tr = run.chain.at(t[places])
        est = run.ema.denoiser(q_sample(x0, eps, tr.abar_t), tr, **_labels(run, batch))
        losses.append(scale(run.config.objective(est, x0, eps, tr), weights[places]).double().cpu())
    return float(torch.cat(losses).mean())


def _held_out_times(run: Run, n: int) -> tuple[Tensor, Tensor]:
    """The times of the held-out loss: the run's own distribution, drawn once and for all."""
    return run.config.times.draw(n, run.chain.schedule.T, stream(run.config.seed, "held-out t"))


def _named(run: Run) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in unet(run.denoiser).named_parameters() if p.requires_grad]


def save(run: Run, path: Path, state: Mapping[str, Any]) -> None:
    """Commit a checkpoint of the run to ``path``; ``state`` is kept beside the step, for the caller.

    Raises:
        StorageError: if the disk refuses; checkpoints already there are intact.
        CheckpointError: if a weight is not finite.
    """
    moments: dict[str, Tensor] = {}
    for name, parameter in _named(run):
        for key, value in run.optimizer.state.get(parameter, {}).items():
            moments[f"{key}.{name}"] = value
    tensors = {
        "ema": unet(run.ema.denoiser).state_dict(),
        "net": unet(run.denoiser).state_dict(),
        "optimizer": moments,
    }
    facts = {
        "step": run.step,
        "data": run.images.fingerprint,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    checkpoint.write(path, checkpoint.describe_model(run.ema.denoiser), tensors, {**facts, **state})


def resume(run: Run, path: Path) -> dict[str, Any]:
    """Put a verified checkpoint of the same config into ``run`` and return its ``state``.

    Raises:
        CheckpointError: if it does not fit the run.
        DataError: if it was trained on other images.
    """
    state: dict[str, Any] = read_json(path / "state.json")
    if state["data"] != run.images.fingerprint:
        raise DataError(
            f"{path}: the images differ from those it was trained on; restore them, or start over with --fresh"
        )
    for denoiser, name in ((run.ema.denoiser, "ema"), (run.denoiser, "net")):
        checkpoint.load_weights(unet(denoiser), checkpoint.read_tensors(path / f"{name}.safetensors"), f"{path}/{name}")
    moments = checkpoint.read_tensors(path / "optimizer.safetensors")
    for name, parameter in _named(run) if state["step"] else []:
        keys = [key for key in moments if key.partition(".")[2] == name]
        if not keys or any(moments[k].ndim and moments[k].shape != parameter.shape for k in keys):
            raise CheckpointError(f"{path}/optimizer.safetensors: has no fitting state for {name}")
        for key in keys:
            # a copy, since the loaded tensors share one buffer, in the layout of the weights it belongs to
            value = moments[key].clone()
            if value.ndim:
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            run.optimizer.state[parameter][key.partition(".")[0]] = value
    run.step = int(state["step"])
    return state
