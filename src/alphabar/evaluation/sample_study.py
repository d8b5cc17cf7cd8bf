"""How samples compare with real images: Fréchet and kernel distance, Inception Score, precision, recall, copies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alphabar.base.cache import cache_folder
from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.base.rng import stream
from alphabar.data.batch import Images
from alphabar.evaluation.copies import Copies, find_copies
from alphabar.evaluation.features.base import FeatureNet, Features
from alphabar.evaluation.kernel import within
from alphabar.evaluation.parts import key_of
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.evaluation.scores import FEW, MOST_NEIGHBOURS, SCORES, Compared
from alphabar.evaluation.work import FeatureWork, SampleWork, Work
from alphabar.process.chain import Chain
from alphabar.process.spacings import SPACINGS

__all__ = ["RealImages", "SampleStudy"]

SHOWN = 24
ORDER = "order of features"


class RealImages(NamedTuple):
    """What samples are compared with: ``reference`` for the distances; ``train`` and ``held_out`` for copies."""

    reference: Images | None
    train: Images | None = None
    held_out: Images | None = None


class SampleStudy:
    """``scores`` (names of ``SCORES``) of the images of ``samples`` against ``real``, and a search for copies.

    Features of samples are kept below ``root``, those of real images in the cache, by the hash of the images and of
    the network: a second evaluation reads them.

    Raises:
        DataError: if the real images have another shape than the samples.
        ConfigError: if a score needs classes and the network has none.
    """

    def __init__(
        self, samples: SampleWork, net: FeatureNet, scores: Sequence[str], real: RealImages, root: Path
    ) -> None:
        self._samples, self._net, self._scores, self._real = samples, net, scores, real
        self._shape = samples.denoiser.shape
        probe = net(torch.zeros((1, *self._shape), dtype=torch.uint8))
        if "is" in scores and probe.logits is None:
            raise ConfigError(
                f"is: the Inception Score needs classes and {net.name} has none; use --features digits, inception, or "
                "a classifier of yours (alphabar classifier SOURCE)"
            )
        self._of_samples = FeatureWork(
            "features of samples", net, self._shape, samples.total, self._sample_rows, root, {"samples": samples.facts}
        )
        works = {images.fingerprint: self._work_of(images) for images in real if images is not None and len(images)}
        self._of_real = works
        self.works: list[Work] = [samples, self._of_samples, *works.values()]
        self.card: dict[str, Any] = {
            "samples": samples.facts["card"]
            | {"spacing": _spacing(samples.chain), "n": samples.total, "seeds": f"0-{samples.total - 1}"},
            "features": {"name": net.name, "sha256": net.sha256, "resize": net.resize},
        }
        for name, images in zip(("reference", "train", "held out"), real, strict=True):
            if images is not None and (name != "train" or images is not real.reference):
                self.card[name] = {"name": images.name, "n": len(images), "fingerprint": images.fingerprint}
        if "pr" in scores and real.reference is not None:
            sizes = {"samples": samples.total, "reference": len(real.reference)}
            self.card["pr"] = {name: min(n, MOST_NEIGHBOURS) for name, n in sizes.items()}

    def _work_of(self, images: Images) -> FeatureWork:
        if images.shape != self._shape:
            raise DataError(
                f"{printable(images.name)}: images are {images.shape}, the model makes {self._shape}; give others to "
                "--reference"
            )
        return FeatureWork(
            f"features of {printable(images.name)}",
            self._net,
            self._shape,
            len(images),
            lambda rows: torch.from_numpy(np.array(images.pixels[rows.start : rows.stop])),
            cache_folder() / "features",
            {"images": images.fingerprint},
        )

    @cached_property
    def images(self) -> Tensor:
        """The samples, uint8 [N, C, H, W]; there once they are made."""
        return self._samples.result()

    def _sample_rows(self, rows: range) -> Tensor:
        return self.images[rows.start : rows.stop]

    def numbers(self) -> dict[str, float | None]:
        """Every score asked for; of copies how many of the samples look copied in each space, and in either."""
        found: dict[str, float | None] = {}
        if self._scores:
            compared = self._compared()
            for name in self._scores:
                found.update(SCORES[name](compared))
        if self._real.train is not None:
            either = torch.zeros(len(self.images), dtype=torch.bool)
            for space, copies in self.copies.items():
                found[f"copied_in_{space}"] = int(copies.copied.sum())
                found[f"nearest_in_{space}"] = float(copies.distance.median())
                found[f"usual_in_{space}"] = float(copies.usual.median())
                either |= copies.copied
            found["copied"] = int(either.sum())
            found["copied_share"] = float(either.double().mean())
        return found

    def _compared(self) -> Compared:
        features = _shuffled(self._of_samples.result())
        if self._real.reference is None:
            reference, work = features, self._of_samples
        else:
            work = self._of_real[self._real.reference.fingerprint]
            reference = _shuffled(work.result())

        def kernels(groups: int) -> Tensor:
            name = f"kernels-{groups}-{key_of({'order': ORDER})}"
            return work.kept(name, lambda: {"within": within(reference.values, groups)})["within"]

        return Compared(features, self._of_samples.moments(), reference, work.moments(), kernels)

    @cached_property
    def copies(self) -> dict[str, Copies]:
        """The search in pixel space (distance: root mean square in grey levels) and in feature space."""
        train, held_out = self._real.train, self._real.held_out
        assert train is not None and held_out is not None
        seen = self._of_real[train.fingerprint].result().values
        unseen = self._of_real[held_out.fingerprint].result().values if len(held_out) else seen[:0]
        real = [torch.from_numpy(np.array(images.pixels)).flatten(1) for images in (train, held_out)]
        return {
            "pixels": find_copies(self.images.flatten(1), *real, unit=self.images[0].numel() ** -0.5),
            "features": find_copies(self._of_samples.result().values, seen, unseen),
        }

    def lines(self, numbers: dict[str, float | None]) -> list[str]:
        """A line per score; the kernel distance first where there are too few samples for the Fréchet distance."""
        n = self._samples.total
        lines = {name: line for name, line in _lines(numbers, self._net.name).items() if line}
        if n < FEW and "fid" in lines:
            lines["fid"] += f"   (n = {n:,}: below {FEW:,} it is biased upwards; compare at equal n only, or use KID)"
        first = ["kid", "fid"] if n < FEW else ["fid", "kid"]
        ordered = [lines.pop(name) for name in first if name in lines] + list(lines.values())
        if "copied" in numbers:
            ordered += self._copy_lines(numbers)
        return ordered

    def _copy_lines(self, numbers: dict[str, float | None]) -> list[str]:
        copied, n = numbers["copied"], len(self.images)
        baseline = self.copies["pixels"].baseline
        lines = [
            f"{'copies':<16} {copied:,} of {n:,} look copied ({100 * (numbers['copied_share'] or 0):.1f} %): nearer to "
            f"a training image than 99 % of {baseline}, and than half their median"
        ]
        for space, unit in (("pixels", "grey levels"), ("features", "in feature space")):
            lines.append(
                f"{f'  {space}':<16} {numbers[f'copied_in_{space}']:,}; median distance to the nearest training image "
                f"{numbers[f'nearest_in_{space}']:.3g}, of unseen images {numbers[f'usual_in_{space}']:.3g} ({unit})"
            )
        return lines

    def write(self, stem: Path) -> list[Path]:
        """A picture of the samples nearest to a training image, each beside it."""
        if self._real.train is None or self._shape[0] not in (1, 3, 4):
            return []
        copies = self.copies["pixels"]
        order = copies.distance.argsort()[:SHOWN]
        partners = torch.from_numpy(np.array(self._real.train.pixels[copies.index[order].numpy()]))
        path = stem.with_name(f"{stem.name}-copies.png")
        write_png(path, grid(enlarge(torch.stack([self.images[order], partners], 1).flatten(0, 1)), columns=8))
        return [path]


def _spacing(chain: Chain) -> str:
    """The name of the first spacing that gives these times, or a hash of them."""
    spaced = (name for name, times in SPACINGS.items() if times(chain.schedule, len(chain)) == chain.times)
    return next(spaced, key_of({"times": chain.times}))


def _shuffled(features: Features) -> Features:
    """In a random order that never changes: files often come sorted, and errors are estimated from groups of rows."""
    order = stream(0, ORDER, len(features.values)).permutation(len(features.values))
    return Features(features.values[order], None if features.logits is None else features.logits[order])


def _lines(numbers: dict[str, float | None], network: str) -> dict[str, str]:
    lines = {}
    if "fid" in numbers:
        lines["fid"] = f"{'FID':<16} {numbers['fid']:.4g}   ({network})"
    if "kid" in numbers:
        error = numbers.get("kid_standard_error")
        lines["kid"] = f"{'KID':<16} {numbers['kid']:.4g}{'' if error is None else f' ± {error:.2g}'}   ({network})"
    if "inception_score" in numbers:
        spread = numbers["inception_score_std"]
        lines["is"] = f"{'Inception Score':<16} {numbers['inception_score']:.4g} ± {spread:.2g}   ({network})"
    if "precision" in numbers:
        lines["pr"] = (
            f"{'precision':<16} {numbers['precision']:.4f}, recall {numbers['recall']:.4f}, "
            f"density {numbers['density']:.4f}, coverage {numbers['coverage']:.4f}"
        )
    return lines
