"""Bits per dimension of real images: the bound, its parts, every term, rate and distortion."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.base.errors import DataError, printable
from alphabar.base.storage import write_file
from alphabar.data.batch import Images
from alphabar.evaluation.dataset import dataset_plan
from alphabar.evaluation.figures.base import Table
from alphabar.evaluation.hops import HopPlan
from alphabar.evaluation.likelihood import Bound, mean_and_error
from alphabar.evaluation.rate_distortion import rate_distortion
from alphabar.evaluation.work import BoundWork, Work, conventions
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain

__all__ = ["BoundStudy", "bits_per_dim", "bound_curve", "bound_lines"]


class BoundStudy:
    """The variational bound of every one of ``images``, all T terms, or an estimate from ``hops`` + 1 calls an image.

    Finished batches are kept below ``root`` under ``facts``, which identify the weights.

    Raises:
        DataError: if the images are not 8-bit: Eq. 13 is the likelihood of 256 levels.
        ConfigError: if ``hops`` is not 1 … T − 1.
    """

    def __init__(
        self, denoiser: Denoiser, images: Images, root: Path, facts: dict[str, Any], *, seed: int, hops: int | None
    ) -> None:
        if images.reduced:
            raise DataError(
                f"{printable(images.name)}: files with more than 8 bits per channel were reduced to 8; bits/dim of the "
                "reduced pixels is not that of the data (Eq. 13 counts 256 levels); save the images with 8 bits first"
            )
        chain = Chain.full(denoiser.schedule)
        plan = None
        if hops is not None:
            HopPlan.uniform(chain, hops)
            plan = dataset_plan(denoiser, images, chain, hops + 1, seed=seed)
        self._work = BoundWork(denoiser, images, root, facts, seed=seed, plan=plan)
        self.works: list[Work] = [self._work]
        self.card = {
            "bound": {
                "name": images.name,
                "n": len(images),
                "fingerprint": images.fingerprint,
                "chain": f"all {len(chain)} steps"
                if plan is None
                else f"{plan.hops} importance-sampled hops and {plan.decoder_draws} draws of L_0 per image",
                **conventions(denoiser),
                "seed": seed,
            }
        }

    def numbers(self) -> dict[str, float | None]:
        """Bits per dimension of the whole and of its parts, each with a standard error."""
        return bits_per_dim(self._work.result())

    def lines(self, numbers: dict[str, float | None]) -> list[str]:
        """One line per part."""
        return bound_lines(numbers)

    def write(self, stem: Path) -> list[Path]:
        """Every image's terms (npz); of a full bound also what happens at each t: terms, rate and distortion (csv)."""
        bound = self._work.result()
        arrays = io.BytesIO()
        values = {**bound.tensors(), "nats": bound.nats, "bits_per_dim": bound.bits_per_dim}
        np.savez_compressed(arrays, **{name: tensor.numpy() for name, tensor in values.items()})  # type: ignore[arg-type]
        files = {stem.with_name(f"{stem.name}-bound.npz"): arrays.getvalue()}
        if self._work.plan is None:
            files[stem.with_name(f"{stem.name}-curve.csv")] = bound_curve(bound).csv()
        for path, data in files.items():
            write_file(path, data)
        return list(files)


def bound_curve(bound: Bound) -> Table:
    """A row per t = T … 1 of a full bound: the term that starts there, its standard error, rate and distortion."""
    unit = bound.dims * math.log(2)
    terms = torch.cat([bound.terms_nats, bound.decoder_nats[:, None]], dim=1) / unit
    errors = terms.std(0) / len(terms) ** 0.5 if len(terms) > 1 else torch.full_like(terms[0], math.nan)
    coded = rate_distortion(bound)
    columns = (coded.times, terms.mean(0), errors, coded.rate, coded.distortion)
    return Table(
        ("t", "L_{t-1} (bits/dim)", "standard error (bits/dim)", "rate (bits/dim)", "distortion (RMSE, 0-255)"),
        list(zip(*(column.tolist() for column in columns), strict=True)),
    )


def bits_per_dim(bound: Bound) -> dict[str, float | None]:
    """The bound and its three parts in bits per dimension, each with its standard error over images.

    Of an estimate also ``bits_per_dim_draw_error``: how far it is from all T terms of the same images.
    """
    unit = bound.dims * math.log(2)
    parts = {
        "bits_per_dim": bound.bits_per_dim,
        "prior_bits_per_dim": bound.prior_nats / unit,
        "terms_bits_per_dim": (bound.nats - bound.prior_nats - bound.decoder_nats) / unit,
        "decoder_bits_per_dim": bound.distortion,
    }
    result: dict[str, float | None] = {}
    for name, values in parts.items():
        mean, error = mean_and_error(values)
        result[name] = mean
        result[f"{name}_standard_error"] = error if math.isfinite(error) else None
    if bool((bound.draw_variance != 0).any()):
        error = bound.draw_error
        result["bits_per_dim_draw_error"] = error if math.isfinite(error) else None
    return result


def bound_lines(numbers: dict[str, float | None]) -> list[str]:
    """The bound for people."""
    names = {
        "bits_per_dim": "bits/dim",
        "prior_bits_per_dim": "  L_T",
        "terms_bits_per_dim": "  L_1 … L_{T-1}",
        "decoder_bits_per_dim": "  L_0",
    }
    lines = []
    for key, name in names.items():
        error = numbers[f"{key}_standard_error"]
        spread = "" if error is None else f" ± {error:.2g}"
        lines.append(f"{name:<16} {numbers[key]:.{4 if key == 'bits_per_dim' else 5}f}{spread}")
    drawn = numbers.get("bits_per_dim_draw_error")
    if drawn is not None:
        lines.append(f"                 of which {drawn:.2g} is from drawing hops instead of visiting all")
    return lines
