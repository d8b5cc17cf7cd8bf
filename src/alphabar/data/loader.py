"""Batches as a pure function of (seed, step): nothing to save, and training resumes at any step exactly.

The stream of samples is the concatenation of one permutation of the whole set per epoch; step ``k`` is the ``k``-th
run of ``batch`` samples of that stream, so a batch may straddle epochs and may be larger than the set.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import ConfigError, printable
from alphabar.data.augment import AUGMENTATIONS
from alphabar.data.batch import Batch, Images
from alphabar.data.order import permutation

__all__ = ["Loader", "indices"]

AHEAD = 4


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    order = permutation(n, seed, "epoch", epoch)
    order.flags.writeable = False
    return order


def indices(n: int, batch: int, seed: int, step: int) -> npt.NDArray[np.int64]:
    """Which of ``n`` images make step ``step`` (0-based): int64 [batch], a pure function of the four arguments.

    Raises :class:`ConfigError` unless n >= 1, batch >= 1 and step >= 0.
    """
    if n < 1 or batch < 1 or step < 0:
        raise ConfigError(f"n = {n}, batch = {batch}, step = {step}: needs n >= 1, batch >= 1 and step >= 0")
    position, stop = step * batch, (step + 1) * batch
    pieces = []
    while position < stop:
        epoch, offset = divmod(position, n)
        pieces.append(_epoch(n, seed, epoch)[offset : offset + stop - position])
        position += len(pieces[-1])
    return np.concatenate(pieces)


class Loader:
    """Batches of ``images`` in an order given by ``seed``, changed by those of ``AUGMENTATIONS`` that are named.

    ``flip`` is short for the one of that name.

    ``waited_seconds`` is how long the consumers of :meth:`steps` have waited for a batch so far. Raises
    :class:`ConfigError` for a batch below 1 or no images.
    """

    def __init__(
        self, images: Images, batch: int, seed: int, *, flip: bool = False, augment: Sequence[str] = ()
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch = {batch}: must be at least 1")
        if not len(images):
            raise ConfigError(f"{printable(images.name)}: holds no images to train on; hold out fewer")
        self.images = images
        self.batch_size = batch
        self.seed = seed
        self.augmentations = [AUGMENTATIONS[name] for name in dict.fromkeys([*(["flip"] if flip else []), *augment])]
        self.waited_seconds = 0.0

    def batch(self, step: int) -> Batch:
        """The batch of step ``step`` >= 0: ``x`` uint8 [B, C, H, W], ``y`` int64 [B] or None."""
        gathered = self.images.gather(indices(len(self.images), self.batch_size, self.seed, step))
        positions = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        for change in self.augmentations:
            # In numpy: torch's own threads, woken here, would fight with those of the training step for the cores.
            change(gathered.x.numpy(), positions, self.seed)
        return gathered

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(step, :meth:`batch` of it) for ``start <= step < stop``, prepared on one thread up to four steps ahead.

        The thread ends with the iterator (used up, closed or dropped); an error met there is raised at its step.
        Raises :class:`ConfigError` for a negative start.
        """
        if start < 0:
            raise ConfigError(f"start = {start}: steps are counted from 0")
        return self._prepared(start, stop)

    def _prepared(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="alphabar-loader") as thread:
            coming: deque[Future[Batch]] = deque()
            coming.extend(thread.submit(self.batch, step) for step in range(start, min(start + AHEAD, stop)))
            try:
                for step in range(start, stop):
                    began = time.perf_counter()
                    batch = coming.popleft().result()
                    self.waited_seconds += time.perf_counter() - began
                    if step + AHEAD < stop:
                        coming.append(thread.submit(self.batch, step + AHEAD))
                    yield step, batch
            finally:
                thread.shutdown(cancel_futures=True)
