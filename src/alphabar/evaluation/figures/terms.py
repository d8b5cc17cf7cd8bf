"""What every time costs: terms of the bound, errors of the noise, and the weights between them (Eqs. 12, 14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alphabar.base.pixels import to_model_range
from alphabar.base.rng import PerImage, derive
from alphabar.data.batch import Images
from alphabar.evaluation.figures.base import Cell, Figure, Table
from alphabar.evaluation.figures.decode import device_of, labelled
from alphabar.evaluation.figures.render import FIRST, SECOND, plot_area, whole_numbers
from alphabar.evaluation.figures.subject import Recipe, Subject
from alphabar.model.denoiser import Denoiser
from alphabar.model.variance import FixedSmall
from alphabar.process import equations as eq
from alphabar.process.chain import Chain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["TERMS", "noise_errors", "weights"]

TIMES = 40
# an axis is logarithmic where the largest value is so many times the smallest
MANY = 30


@dataclass(frozen=True)
class Curve:
    """Mean and standard error over images at the times ``t``, float64 [K] each; the error of a single image is 0."""

    t: list[int]
    mean: Tensor
    error: Tensor

    @staticmethod
    def of(t: list[int], values: Tensor) -> Curve:
        """The curve of ``values`` float64 [N, K]."""
        error = values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.zeros(values.shape[1])
        return Curve(t, values.mean(0), error.double())

    def rows(self, *scales: float) -> list[list[Cell]]:
        """t, mean and error, then both again in other units."""
        both = zip(self.t, self.mean.tolist(), self.error.tolist(), strict=True)
        return [[t, mean, error, *(x * scale for scale in scales for x in (mean, error))] for t, mean, error in both]


def noise_errors(subject: Subject, images: Images, times: list[int]) -> Tensor:
    """‖ε − ε_θ‖² per dimension of every image at K ``times``, the unclipped ε_θ of training: float64 [N, K]."""
    denoiser = subject.measured
    device = device_of(denoiser)
    hops = {tr.t: tr for tr in Chain.full(denoiser.schedule)}
    rows = []
    for start in range(0, len(images), subject.batch):
        indices = list(range(start, min(start + subject.batch, len(images))))
        x0 = to_model_range(images.gather(torch.tensor(indices).numpy()).x, device)
        denoise = labelled(denoiser, subject.labels_of(images, indices))
        rng = PerImage([derive(subject.seed, "terms", i) for i in indices])
        columns = []
        for t in times:
            tr, eps = hops[t], rng.randn_like(x0)
            x_t = eq.q_sample(x0, eps, tr.abar_t)
            est = denoise(x_t, tr)
            columns.append(eq.simple_loss(eps, denoiser.prediction.eps(est.out, x_t, tr)).double().cpu())
        rows.append(torch.stack(columns, dim=1))
    return torch.cat(rows)


def weights(denoiser: Denoiser) -> Tensor:
    """The factor of ‖ε − ε_θ‖² in L_{t−1} for t = T … 2, float64 [T−1]; with σ² = β̃ where the variance is learned."""
    variance = denoiser.variance if denoiser.variance.channels == 1 else FixedSmall()
    hops = list(Chain.full(denoiser.schedule))[:-1]
    found = []
    for tr in hops:
        log_var = variance.log_var(None, tr)
        assert isinstance(log_var, float)
        found.append(float(eq.bound_weight(tr.abar_t, tr.abar_s, log_var)))
    return torch.tensor(found, dtype=torch.float64)


def make(subject: Subject) -> Figure:
    """Three panels: the terms, the error of the noise, the weights."""
    bound, images = subject.bound, subject.unseen
    t = list(range(subject.T, 0, -1))
    nats = Curve.of(t, torch.cat([bound.terms_nats, bound.decoder_nats[:, None]], dim=1))
    times = sorted({max(1, round(subject.T ** (k / (TIMES - 1)))) for k in range(TIMES)})
    errors = Curve.of(times, noise_errors(subject, images, times))
    weight = weights(subject.measured)
    bits = 1 / (bound.dims * math.log(2))
    fixed = subject.measured.variance.channels == 1
    learned = "" if fixed else " (for σ² = β̃; this model learns its variance)"
    return Figure(
        "terms",
        "What each time step costs",
        "Above: the bound on the code length of an image is a sum of one term per time step; each point is what one "
        f"step costs, mean of {len(images)} held-out images, with a band of one standard error. Below left: the mean "
        "squared error of the noise that the network predicts, 1 for a network that says 0; it is small where the "
        "image is mostly noise. Below right: the factor by which the bound multiplies the sum of that error over all "
        f"dimensions{learned}. The simple loss takes 1 everywhere and so gives more weight to large t. Ho et al. "
        "(2020), Eqs. 5, 12, 14.",
        partial(_draw, nats, errors, weight, bits),
        arrays={
            "t": np.array(t),
            "terms_nats": nats.mean.numpy(),
            "terms_nats_standard_error": nats.error.numpy(),
            "noise_error_times": np.array(times),
            "noise_error": errors.mean.numpy(),
            "noise_error_standard_error": errors.error.numpy(),
            "weight_times": np.array(t[:-1]),
            "weight": weight.numpy(),
        },
        tables={
            "": Table(
                ["t", "nats", "nats_standard_error", "bits_per_dim", "bits_per_dim_standard_error", "weight_eq12"],
                [[*row, w] for row, w in zip(nats.rows(bits), [*weight.tolist(), ""], strict=True)],
            ),
            "noise": Table(["t", "mse_of_noise", "standard_error"], errors.rows()),
        },
    )


def _draw(nats: Curve, errors: Curve, weight: Tensor, bits: float, figure: Canvas) -> None:
    from matplotlib.ticker import NullFormatter

    plot_area(figure, 860)
    panels = figure.subplot_mosaic([["terms", "terms"], ["error", "weight"]])
    _scales(panels["terms"], nats.t, nats.mean)
    _scales(panels["error"], nats.t, errors.mean)
    far_apart = _scales(panels["weight"], nats.t, weight)
    axes = panels["terms"]
    _plot(axes, nats, "-")
    last = float(nats.mean[-1])
    axes.plot([1], [last], "D", color=SECOND, markersize=5)
    axes.annotate("L₀, the pixels themselves", (1, last), (10, -2), textcoords="offset points", color=SECOND)
    axes.set_title("Terms of the bound")
    axes.set_ylabel("nats per image")
    other = axes.secondary_yaxis("right", functions=(partial(np.multiply, bits), partial(np.multiply, 1 / bits)))
    other.yaxis.set_minor_formatter(NullFormatter())
    other.set_ylabel("bits/dim")
    axes = panels["error"]
    _plot(axes, errors, "o-")
    axes.set_title("Error of the predicted noise")
    axes.set_ylabel("mean squared error")
    axes = panels["weight"]
    axes.plot(nats.t[:-1], weight, color=FIRST, label="bound (Eq. 12)")
    axes.axhline(1, color=SECOND, label="simple loss (Eq. 14)")
    axes.set_title("Weight of that error in the loss")
    axes.set_ylabel("weight")
    # room for the legend above everything
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.4 if far_apart else high + 0.4 * (high - low))
    axes.legend(loc="upper right")


def _scales(axes: Axes, t: list[int], values: Tensor) -> bool:
    """Logarithmic axes where the numbers are far apart; whether the values are."""
    from matplotlib.ticker import NullFormatter

    axes.set_xlabel("time t")
    if len(t) >= MANY:
        axes.set_xscale("log")
    else:
        whole_numbers(axes)
    far_apart = len(values) > 0 and float(values.max()) > MANY * float(values.min()) > 0
    if far_apart:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    return far_apart


def _plot(axes: Axes, curve: Curve, line: str) -> None:
    """A mean with a band of one standard error, which stays above 0 for a logarithmic axis."""
    low = torch.maximum(curve.mean - curve.error, curve.mean / 10)
    axes.fill_between(curve.t, low, curve.mean + curve.error, color=FIRST, alpha=0.25, linewidth=0)
    axes.plot(curve.t, curve.mean, line, color=FIRST, markersize=3, linewidth=1.3)


TERMS = Recipe(
    make,
    lambda subject: TIMES * min(subject.n, len(subject.held_out)) if subject.held_out is not None else 0,
    uses_bound=True,
    shows_images=False,
)
