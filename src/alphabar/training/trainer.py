"""Algorithm 1: the state of a run and one step of it. No files but checkpoints, no printing, no policy."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alphabar.base.chunks import Chunks, asked_for, is_out_of_memory
from alphabar.base.device import default_device
from alphabar.base.errors import CheckpointError, ConfigError, DataError, Diverged, OutOfMemory
from alphabar.base.pixels import Units, to_model_range
from alphabar.base.rng import derive, stream
from alphabar.base.tensors import scale
from alphabar.data.batch import Batch, Images, split
from alphabar.data.loader import Loader
from alphabar.data.sources import open_source
from alphabar.model.cost import images_at_once
from alphabar.model.denoiser import Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet
from alphabar.process.chain import Chain
from alphabar.process.equations import q_sample
from alphabar.training.config import RunConfig
from alphabar.training.ema import Ema
from alphabar.training.environment import environment
from alphabar.training.optim import build_optimizer, kept_for, lr_at
from alphabar.training.room import advice, at
from alphabar.weights import checkpoint

__all__ = [
    "Metrics",
    "Run",
    "build",
    "fit",
    "held_out_loss",
    "new_denoiser",
    "restart",
    "resume",
    "save",
    "step_times",
    "train_step",
]

PATIENCE = 3  # steps in a row without a finite loss and gradient


@dataclass(frozen=True)
class Metrics:
    """What one step reports. ``step`` counts steps; ``loss`` is the mean over the batch.

    A step whose loss or gradient is not finite is ``skipped``: it counts, and changes nothing else.
    """

    step: int
    images: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    skipped: bool = False


@dataclass
class Run:
    """The state of training: everything that changes, beside what defines it.

    ``skipped`` counts the steps that were not finite, ``skipped_in_a_row`` the latest of them; ``lr_scale`` multiplies
    the rate.
    """

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
    skipped: int = 0
    skipped_in_a_row: int = 0
    lr_scale: float = 1.0


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
    net.activation_checkpointing = config.run.activation_checkpointing
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
    where = default_device() if device is None else torch.device(device)
    denoiser = new_denoiser(config, images.shape, images.units).to(where)
    run = Run(
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
    if config.run.compile:
        # in place, so that weights keep their names; the average is used too rarely to repay it
        unet(denoiser).compile()
    return run


def _labels(run: Run, batch: Batch) -> dict[str, Tensor]:
    if not run.config.net.num_classes or batch.y is None:
        return {}
    return {"y": batch.y.to(run.device)}


@dataclass(frozen=True)
class _Draw:
    """The random numbers of one step: x_0 and ε [B, C, H, W], t [B], importance weights [B], labels."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    weights: Tensor
    labels: dict[str, Tensor]

    def part(self, rows: range) -> _Draw:
        some = slice(rows.start, rows.stop)
        labels = {name: y[some] for name, y in self.labels.items()}
        return _Draw(self.x0[some], self.eps[some], self.t[some], self.weights[some], labels)


def step_times(run: Run, step: int) -> Tensor:
    """The times t int64 [B] of a step (0-based), in the order of its batch."""
    return _draw_times(run, step)[0]


def _draw_times(run: Run, step: int) -> tuple[Tensor, Tensor]:
    config = run.config
    return config.times.draw(config.run.batch, run.chain.schedule.T, stream(config.seed, "t", step))


def _draw(run: Run, batch: Batch) -> _Draw:
    x0 = to_model_range(batch.x, run.device)
    t, weights = _draw_times(run, run.step)
    eps = stream(run.config.seed, "eps", run.step).randn_like(x0)
    return _Draw(x0, eps, t, weights, _labels(run, batch))


def _losses(run: Run, denoiser: Denoiser, some: _Draw) -> Tensor:
    """The weighted objective of a denoiser on some images [B]."""
    tr = run.chain.at(some.t)
    est = denoiser(q_sample(some.x0, some.eps, tr.abar_t), tr, **some.labels)
    return scale(run.config.objective(est, some.x0, some.eps, tr), some.weights)


def _backward(run: Run, some: _Draw, share: float) -> float:
    """Add the gradient of ``share`` times the mean loss of some images; returns that loss."""
    loss = _losses(run, run.denoiser, some).mean() * share
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _gradient(run: Run, batch: Batch, micro_batch: int) -> float:
    """The gradient of the mean loss of a batch, ``micro_batch`` images at a time; returns that loss."""
    drawn, size = _draw(run, batch), len(batch.x)
    # dropout is the one consumer of torch's global stream
    torch.manual_seed(derive(run.config.seed, "dropout", run.step))
    run.optimizer.zero_grad()
    loss = 0.0
    for start in range(0, size, micro_batch):
        rows = range(start, min(size, start + micro_batch))
        loss += _backward(run, drawn.part(rows), len(rows) / size)
    return loss


def _moments(run: Run) -> list[Tensor]:
    return [torch.zeros_like(p) for p in run.denoiser.parameters() for _ in range(2)]


def _fitting(run: Run, batch: Batch, too_many: int) -> int | None:
    """The largest half, quarter, … of ``too_many`` images that fit into memory, None if not even one.

    They fit beside the gradient of those before them, and the moments that the optimiser keeps from its first step on.
    """
    size = too_many
    while size > 1:
        size = -(-size // 2)
        gc.collect()  # the graph of what failed may be in cycles of frames and exceptions
        try:
            moments = [] if run.optimizer.state else _moments(run)
            for _ in range(2):
                _backward(run, _draw(run, batch).part(range(size)), 1.0)
            del moments
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        finally:
            run.optimizer.zero_grad()
    return None


def _gradient_or_advice(run: Run, batch: Batch) -> float:
    """:func:`_gradient`; where memory does not suffice, the error says which micro-batch fits."""
    size = run.config.run.micro_batch or run.config.run.batch
    try:
        return _gradient(run, batch, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        asked = asked_for(error)
    fits = _fitting(run, batch, size)
    raise OutOfMemory(f"out of memory at {at(run.config)}{asked}; {advice(run.config, fits)}", fits)


def train_step(run: Run, batch: Batch) -> Metrics:
    """Algorithm 1, lines 2–5.  x_0 ~ q, t ~ Uniform{1…T}, ε ~ N(0, I); one gradient step on the objective.

    Every random number is a pure function of (seed, step). The weights are only touched when loss and gradient are
    finite.

    Raises:
        OutOfMemory: if memory is exhausted, with the micro-batch that fits.
    """
    config, step, began = run.config, run.step, time.perf_counter()
    loss = _gradient_or_advice(run, batch)
    weights = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, config.optim.clip_norm).item()
    lr = run.lr_scale * lr_at(step, config.run.steps, config.optim)
    good = math.isfinite(loss) and math.isfinite(norm)
    if good:
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        try:
            run.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"out of memory for the optimiser{asked_for(error)}; use a smaller network"
                ) from error
            raise
        run.ema.update(run.denoiser, step + 1 - run.skipped)
    run.step = step + 1
    run.skipped += not good
    run.skipped_in_a_row = 0 if good else run.skipped_in_a_row + 1
    return Metrics(
        step=run.step,
        images=run.step * config.run.batch,
        loss=loss,
        lr=lr,
        grad_norm=norm,
        seconds=time.perf_counter() - began,
        skipped=not good,
    )


def fit(run: Run) -> Iterator[Metrics]:
    """Algorithm 1 from ``run.step`` to the end: one :class:`Metrics` per step.

    Raises:
        Diverged: after three steps in a row whose loss or gradient is not finite; the weights are those before them.
    """
    run.denoiser.train()
    for _, batch in run.loader.steps(run.step, run.config.run.steps):
        metrics = train_step(run, batch)
        yield metrics
        if run.skipped_in_a_row >= PATIENCE:
            raise Diverged(
                f"step {run.step}: loss is {metrics.loss:.4g} and gradient norm {metrics.grad_norm:.4g}, not finite in "
                f"{run.skipped_in_a_row} steps in a row; lower optim.lr (now {run.config.optim.lr * run.lr_scale:g})"
            )


def restart(run: Run, *, lr_scale: float) -> None:
    """Put a run back to its first step, with fresh weights and ``lr_scale`` times the rate."""
    fresh = new_denoiser(run.config, run.images.shape).state_dict()
    run.denoiser.load_state_dict(fresh)
    run.ema.denoiser.load_state_dict(fresh)
    run.optimizer.state.clear()
    run.step, run.skipped, run.skipped_in_a_row, run.lr_scale = 0, 0, 0, lr_scale


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
    chunks, losses = Chunks("held-out loss", images_at_once(run.ema.denoiser)), []
    for start in range(0, n * rounds, 256):
        places = torch.arange(start, min(start + 256, n * rounds))
        batch = run.held_out.gather((places % n).numpy())
        x0 = to_model_range(batch.x, run.device)
        eps = stream(run.config.seed, "held-out eps", start).randn_like(x0)
        drawn = _Draw(x0, eps, t[places], weights[places], _labels(run, batch))
        losses += chunks(partial(_held_out_losses, run, drawn), range(len(places)))
    return float(torch.cat(losses).mean())


def _held_out_losses(run: Run, drawn: _Draw, rows: range) -> Tensor:
    """The weighted objective of the EMA weights on some of the images, float64 [B]."""
    return _losses(run, run.ema.denoiser, drawn.part(rows)).double().cpu()


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
        "skipped": run.skipped,
        "skipped_in_a_row": run.skipped_in_a_row,
        "lr_scale": run.lr_scale,
        "data": run.images.fingerprint,
        "environment": environment(run.device),
    }
    checkpoint.write(path, checkpoint.describe_model(run.ema.denoiser), tensors, {**facts, **state})


def _misfit(value: Tensor, parameter: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.ndim and value.shape != parameter.shape)


def resume(run: Run, path: Path, *, new_data: bool = False) -> dict[str, Any]:
    """Put a verified checkpoint of the same config into ``run`` and return its ``state``.

    With ``new_data`` the images may be others than those it was trained on.

    Raises:
        CheckpointError: if it does not fit the run.
        DataError: if it was trained on other images.
    """
    state = checkpoint.training_state(path)
    if state["data"] != run.images.fingerprint and not new_data:
        raise DataError(
            f"{path}: the images differ from those it was trained on; restore them, go on with these by "
            "--accept-new-data, or start over with --fresh"
        )
    for denoiser, name in ((run.ema.denoiser, "ema"), (run.denoiser, "net")):
        checkpoint.load_weights(unet(denoiser), checkpoint.read_tensors(path / f"{name}.safetensors"), f"{path}/{name}")
    moments, expected = checkpoint.read_tensors(path / "optimizer.safetensors"), kept_for(run.optimizer)
    # an optimiser that has not moved yet keeps nothing
    for name, parameter in _named(run) if moments or state["step"] > state["skipped"] else []:
        keys = [key for key in moments if key.partition(".")[2] == name]
        fits = {key.partition(".")[0] for key in keys} == expected[parameter]
        if not fits or any(_misfit(moments[key], parameter) for key in keys):
            raise CheckpointError(f"{path}/optimizer.safetensors: has no fitting state for {name}")
        for key in keys:
            # a copy, since the loaded tensors share one buffer, where its weights are and in their layout
            value = moments[key].to(parameter.device, copy=True)
            if value.ndim:
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            run.optimizer.state[parameter][key.partition(".")[0]] = value
    run.step = int(state["step"])
    run.skipped, run.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
    run.lr_scale = state["lr_scale"]
    return state
