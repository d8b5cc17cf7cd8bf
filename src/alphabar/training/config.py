"""Everything that defines a run, as one frozen value. How text becomes it is ``runtime.config``'s business."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from alphabar.base.choice import choice
from alphabar.base.errors import ConfigError, printable
from alphabar.data.augment import AUGMENTATIONS
from alphabar.data.reading import Reading
from alphabar.model.denoiser import Clip, Index, TimeInput
from alphabar.model.nn import UNetConfig
from alphabar.model.prediction import Eps, Prediction
from alphabar.model.variance import FixedLarge, Variance
from alphabar.process.schedules import Linear, ScheduleSpec
from alphabar.training.ema import EmaConfig
from alphabar.training.objectives import OBJECTIVES, Objective, Simple
from alphabar.training.optim import OptimConfig
from alphabar.training.times import Times, Uniform

__all__ = ["DataConfig", "RunConfig", "RunSettings"]

PRECISIONS = ("fp32", "bf16")


@choice
class DataConfig:
    """Which images.

    Attributes:
        source: what ``alphabar train`` accepts: ``digits``, a folder, a file, or ``kind:path``.
        size: the side of the square to which images of other sizes are brought, or None to keep or choose theirs.
        fit: how they are brought there: ``crop`` (shorter side resized, centre cut out) or ``pad``.
        pages: what files with several pages or frames make: ``first``, ``images`` or ``channels``.
        value_range: the stored values that are black and white, for files of more than 8 bits.
        background: the grey level behind transparency and around padded images.
        flip: whether to mirror half of the images, chosen per (seed, epoch, image).
        augment: further changes, chosen in the same way: ``flip_vertical``, ``rotate`` (by 90 degrees), ``shift``.
        held_out: how many images are kept from training, for the held-out loss and the bound.
    """

    source: str = "digits"
    size: Annotated[int, Field(ge=2, le=65536)] | None = None
    fit: str = "crop"
    pages: str = "first"
    value_range: tuple[float, float] | None = None
    background: Annotated[int, Field(ge=0, le=255)] = 255
    flip: bool = False
    augment: tuple[str, ...] = ()
    held_out: Annotated[int, Field(ge=0, le=10**9)] = 0

    def __post_init__(self) -> None:
        """Check what reading and augmentation need."""
        self.reading()
        for name in self.augment:
            AUGMENTATIONS[name]

    def reading(self) -> Reading:
        """The part of the settings that says how files become images."""
        return Reading(self.size, self.fit, self.pages, self.value_range, self.background)


@choice
class RunSettings:
    """How long and how often.

    Attributes:
        steps: updates in all.
        batch: images per update.
        micro_batch: images per forward and backward pass, or None for the whole batch. Fewer take less memory; the
            update is the same up to rounding, and up to the masks of dropout.
        activation_checkpointing: compute each block of the network again in the backward pass instead of keeping what
            is inside it: the same updates from less memory, in more time.
        compile: have torch fuse what is between the matrix products of the network (``torch.compile``), which takes a
            minute or more before the first step. The same function, rounded differently.
        precision: ``fp32``, or ``bf16`` inside the network (weights, loss and sampler stay float32).
        threads: threads on the CPU, or None for torch's choice. Another number rounds differently.
        save_every: steps between checkpoints.
        preview_every: steps between previews and held-out losses.
        keep: how many of the newest checkpoints are kept.
    """

    steps: Annotated[int, Field(ge=1, le=10**9)] = 800_000
    batch: Annotated[int, Field(ge=1, le=10**6)] = 128
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    precision: str = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    save_every: Annotated[int, Field(ge=1, le=10**9)] = 5000
    preview_every: Annotated[int, Field(ge=1, le=10**9)] = 5000
    keep: Annotated[int, Field(ge=2, le=10**6)] = 2

    def __post_init__(self) -> None:
        """Check the precision."""
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"run.precision: got {printable(repr(self.precision))[:80]}, need one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True)
class RunConfig:
    """One run: data, process, model, loss, optimiser. The defaults are the paper's CIFAR-10 recipe where it has one.

    Raises:
        ConfigError: if the parts do not fit each other.
    """

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleSpec = field(default_factory=Linear)
    prediction: Prediction = field(default_factory=Eps)
    variance: Variance = field(default_factory=FixedLarge)
    time_input: TimeInput = field(default_factory=Index)
    clip: Clip | None = field(default_factory=Clip)
    net: UNetConfig = field(default_factory=UNetConfig)
    objective: Objective = field(default_factory=Simple)
    times: Times = field(default_factory=Uniform)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: got {str(self.seed)[:40]}, need 0 … 2^63 − 1")
        if self.net.output_channels != self.net.input_channels * self.variance.channels:
            raise ConfigError(
                f"net.output_channels: got {self.net.output_channels}, need "
                f"{self.net.input_channels * self.variance.channels} for {self.net.input_channels} input channels and "
                f"variance {type(self.variance).__name__}"
            )
        if self.variance.channels > 1 and not self.objective.teaches_variance:
            kind = OBJECTIVES.name_of(self.objective)
            raise ConfigError(f"objective: {kind} teaches no variance; use objective.kind=hybrid or bound")
        rows = self.net.total_time_steps
        if rows is not None and self.schedule.T > rows:
            raise ConfigError(
                f"net.total_time_steps: the table has {rows} rows but the schedule has T = {self.schedule.T}; raise it"
            )
