"""The long parts of an evaluation: bounds, samples, features. Each can say what it will cost, stop, and go on later."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from alphabar.base.chunks import Chunks
from alphabar.base.errors import DataError, StorageError
from alphabar.data.batch import Images
from alphabar.evaluation.dataset import batch_bound
from alphabar.evaluation.features.base import FeatureNet, Features
from alphabar.evaluation.hops import HopPlan
from alphabar.evaluation.likelihood import Bound
from alphabar.evaluation.moments import Moments
from alphabar.evaluation.parts import Parts
from alphabar.model.denoiser import Denoiser
from alphabar.model.variance import VARIANCES
from alphabar.process.chain import Chain
from alphabar.samplers.driver import Sampler
from alphabar.samplers.generate import finished, frames

__all__ = ["BoundWork", "FeatureWork", "SampleWork", "Work", "batch_size", "conventions"]

TRIAL_SECONDS = 1.0


class Work(Protocol):
    """Something that takes minutes: ``total`` images, of which :meth:`left` are not done yet."""

    name: str
    total: int

    def left(self) -> int:
        """Images still to do."""
        ...

    def trial(self) -> float:
        """The seconds that one image takes here, measured on one batch after a first that is not counted."""
        ...

    def run(self) -> Iterator[int]:
        """Do what is left, yielding the images done so far; finished batches are kept."""
        ...


def batch_size(shape: tuple[int, int, int]) -> int:
    """Images per batch: enough to keep the processor busy, few enough for its memory."""
    _, height, width = shape
    return max(1, min(256, 65536 // (height * width)))


def conventions(denoiser: Denoiser) -> dict[str, Any]:
    """What decides a result beside the weights and can be changed without them: variance, and limits of x̂_0."""
    return {
        "variance": VARIANCES.name_of(denoiser.variance),
        "clip": "none" if denoiser.clip is None else denoiser.clip.limit,
    }


def _timed(call: Callable[[], object], least: int = 2) -> float:
    """The median seconds of a call, repeated for about a second, after one that warms up."""
    call()
    moments = [time.perf_counter()]
    while len(moments) <= least or moments[-1] - moments[0] < TRIAL_SECONDS:
        call()
        moments.append(time.perf_counter())
    return float(np.median(np.diff(moments)))


class _Batches:
    """Rows 0 … n−1 in batches, each a part of that name."""

    def __init__(self, n: int, batch: int, parts: Parts, name: str) -> None:
        self.n, self.batch, self.parts = n, batch, parts
        self.chunks = Chunks(name)

    def __iter__(self) -> Iterator[tuple[str, range]]:
        for number, start in enumerate(range(0, self.n, self.batch)):
            yield f"{number:06d}", range(start, min(start + self.batch, self.n))

    def missing(self) -> list[tuple[str, range]]:
        return [(name, rows) for name, rows in self if not self.parts.has(name, len(rows))]

    def left(self) -> int:
        return sum(len(rows) for _, rows in self.missing())

    def trial(self, seconds_per_row: Callable[[range], float]) -> float:
        """What ``seconds_per_row`` says of the first missing batch, or of as much of it as memory holds."""
        return self.chunks(seconds_per_row, self.missing()[0][1])[-1]

    def work(self, make: Callable[[range], dict[str, Tensor]]) -> Iterator[int]:
        """Make and keep what is missing, yielding the rows done so far."""
        done = self.n - self.left()
        for name, rows in self.missing():
            made = self.chunks(make, rows)
            self.parts.put(name, {key: torch.cat([piece[key] for piece in made]) for key in made[0]})
            done += len(rows)
            yield done

    def load(self) -> list[dict[str, Tensor]]:
        found = []
        for name, rows in self:
            part = self.parts.get(name, len(rows))
            assert part is not None, "load() before run()"
            found.append(part)
        return found


class BoundWork:
    """The variational bound of every image of a set, full or by a plan of hops."""

    name = "bits/dim"

    def __init__(
        self,
        denoiser: Denoiser,
        images: Images,
        root: Path,
        facts: dict[str, Any],
        *,
        seed: int,
        plan: HopPlan | None = None,
    ) -> None:
        self.denoiser, self.images, self.seed, self.plan = denoiser, images, seed, plan
        self.chain = Chain.full(denoiser.schedule)
        self.total = len(images)
        hops = None if plan is None else plan.facts()
        size = batch_size(denoiser.shape)
        of_bound = {"images": images.fingerprint, "seed": seed, "hops": hops, "batch": size}
        facts = {**facts, **conventions(denoiser), **of_bound}
        self._batches = _Batches(self.total, size, Parts(root, "bound", facts), self.name)

    def left(self) -> int:
        """Images still to measure."""
        return self._batches.left()

    def trial(self) -> float:
        """Seconds for one image."""
        return self._batches.trial(self._time)

    def _time(self, rows: range) -> float:
        least = HopPlan.uniform(self.chain, min(2, len(self.chain) - 1)) if len(self.chain) > 1 else None
        calls = 1 if least is None else least.hops + 1
        seconds = _timed(lambda: self._bound(rows, least), least=1) / calls
        wanted = len(self.chain) if self.plan is None else self.plan.hops + self.plan.decoder_draws
        return seconds * wanted / len(rows)

    def run(self) -> Iterator[int]:
        """Measure what is left."""
        return self._batches.work(lambda rows: self._bound(rows, self.plan).tensors())

    def result(self) -> Bound:
        """The bound of every image, in order."""
        dims = math.prod(self.denoiser.shape)
        return Bound.cat([Bound(**part, dims=dims) for part in self._batches.load()])

    def _bound(self, rows: range, plan: HopPlan | None) -> Bound:
        return batch_bound(self.denoiser, self.images, rows, self.chain, seed=self.seed, hops=plan)


class SampleWork:
    """Images from a model, one per seed 0 … n−1."""

    name = "samples"

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        chain: Chain,
        n: int,
        root: Path,
        facts: dict[str, Any],
        labels: Tensor | None,
    ) -> None:
        self.denoiser, self.sampler, self.chain, self.labels = denoiser, sampler, chain, labels
        self.total, self.facts = n, facts
        size = batch_size(denoiser.shape)
        self._batches = _Batches(n, size, Parts(root, "samples", {**facts, "batch": size}), self.name)

    def left(self) -> int:
        """Images still to sample."""
        return self._batches.left()

    def trial(self) -> float:
        """Seconds for one image."""
        return self._batches.trial(self._time)

    def _time(self, rows: range) -> float:
        hops = self._frames(rows)
        next(hops)
        moments = [time.perf_counter()]
        for _ in hops:
            moments.append(time.perf_counter())
            if len(moments) > 2 and moments[-1] - moments[0] > TRIAL_SECONDS:
                break
        hop = float(np.median(np.diff(moments))) if len(moments) > 1 else 0.0
        return hop * len(self.chain) / len(rows)

    def run(self) -> Iterator[int]:
        """Sample what is left."""
        return self._batches.work(self._sample)

    def result(self) -> Tensor:
        """The images, uint8 [N, C, H, W]."""
        return torch.cat([part["images"] for part in self._batches.load()])

    def _sample(self, rows: range) -> dict[str, Tensor]:
        return {"images": finished(self._frames(rows))}

    def _frames(self, rows: range) -> Iterator[Any]:
        labels = None if self.labels is None else self.labels[rows.start : rows.stop]
        return frames(self.denoiser, self.sampler, self.chain, rows, labels)


class FeatureWork:
    """What a feature network says about images; ``facts`` identify them, ``read`` gives uint8 rows [B, C, H, W]."""

    def __init__(
        self,
        name: str,
        net: FeatureNet,
        shape: tuple[int, int, int],
        n: int,
        read: Callable[[range], Tensor],
        root: Path,
        facts: dict[str, Any],
    ) -> None:
        self.name, self.net, self.shape, self.total, self.read = name, net, shape, n, read
        size = batch_size(shape)
        self._batches = _Batches(
            n, size, Parts(root, "features", {**facts, "features": net.sha256, "batch": size}), name
        )

    def left(self) -> int:
        """Images still to look at."""
        return self._batches.left()

    def trial(self) -> float:
        """Seconds for one image."""
        return self._batches.trial(self._time)

    def _time(self, rows: range) -> float:
        noise = torch.randint(0, 256, (len(rows), *self.shape), generator=torch.Generator().manual_seed(0))
        return _timed(lambda: self.net(noise.to(torch.uint8)), least=1) / len(rows)

    def run(self) -> Iterator[int]:
        """Look at what is left."""
        return self._batches.work(self._look)

    def result(self) -> Features:
        """The features of every image, in order."""
        return Features.cat([Features(part["values"], part.get("logits")) for part in self._batches.load()])

    def _look(self, rows: range) -> dict[str, Tensor]:
        found = self.net(self.read(rows))
        if not torch.isfinite(found.values).all():
            raise DataError(f"{self.net.name}: gave NaN or infinite features; choose other --features")
        return {"values": found.values} | ({} if found.logits is None else {"logits": found.logits})

    def moments(self) -> Moments:
        """Mean and scatter of all features, kept beside them."""

        def make() -> dict[str, Tensor]:
            made = Moments.of(self.result().values)
            return {"mean": made.mean, "scatter": made.scatter}

        found = self.kept("moments", make)
        return Moments(self.total, found["mean"], found["scatter"])

    def kept(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``make`` makes of all features, kept beside them under ``name``."""
        name = f"{name}-{self.total}"
        found = self._batches.parts.get(name, 1)
        if found is None:
            found = {key: tensor[None] for key, tensor in make().items()}
            # what was computed is not lost for want of a place to keep it
            with contextlib.suppress(StorageError):
                self._batches.parts.put(name, found)
        return {key: tensor[0] for key, tensor in found.items()}
