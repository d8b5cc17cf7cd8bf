"""Who runs: the peers in their own words, and ours.

Every contestant is the paper's U-Net (or the peer's nearest configuration of equal size), its forward pass, and one
training step as its own loop makes it: loss, backward, clipping, optimiser, EMA where it has them. Modules that a peer
imports and never calls here are replaced by empty ones.
"""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark import loops
from benchmark.spec import Spec

__all__ = ["CONTESTANTS", "COUNTS", "Contestant", "stand_in"]

# how many images the recipes of our own networks are for
COUNTS = {"digits": 1797, "mnist": 60_000}


@dataclass(frozen=True)
class Contestant:
    """A network and what can be timed of it, by name: ``forward`` (in evaluation mode), ``step``, ``sample``."""

    net: nn.Module
    actions: dict[str, Callable[[], object]]


class _Empty(types.ModuleType):
    """A module without content: every name in it is an empty class."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder:
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        inside = name.split(".")[0] in self.names or name in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in(*names: str) -> None:
    """Let ``import name`` succeed in this process for packages that a peer imports but does not need here."""
    sys.meta_path.insert(0, _Finder(names))


def _forward(spec: Spec, call: Callable[[Tensor, Tensor], object]) -> Callable[[], object]:
    x, t = spec.images(), spec.times()

    def forward() -> object:
        with torch.no_grad(), spec.precision():
            return call(x, t)

    return forward


def diffusers(spec: Spec) -> Contestant:
    """UNet2DModel in the configuration of google/ddpm-cifar10-32 (or ddpm-…-256); its unconditional example's loop.

    It samples as its DDPMPipeline does, along ``hops``, but to a tensor; in the setting ``bf16`` as a pipeline that is
    loaded with weights of that type.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    widths, attends = {
        "cifar10": ((128, 256, 256, 256), 1),
        "lsun256": ((128, 128, 256, 256, 512, 512), 4),
    }[spec.model]
    levels = range(len(widths))
    down = ["AttnDownBlock2D" if level == attends else "DownBlock2D" for level in levels]
    up = ["AttnUpBlock2D" if level == attends else "UpBlock2D" for level in reversed(levels)]
    net = spec.place(
        UNet2DModel(
            sample_size=spec.shape[1],
            block_out_channels=widths,
            down_block_types=down,
            up_block_types=up,
            layers_per_block=2,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            attention_head_dim=None,
            dropout=0.1 if spec.model == "cifar10" else 0.0,
        )
    )
    spec.compile(net)
    x0, loop = spec.images(), loops.diffusers(net, spec.precision)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(spec.hops)

    @cache
    def loaded() -> nn.Module:
        twin = copy.deepcopy(net).eval().to(torch.bfloat16 if "bf16" in spec.settings else torch.float32)
        spec.compile(twin)
        return twin

    def sample() -> object:
        pipe = loaded()
        x = torch.randn_like(x0, dtype=next(pipe.parameters()).dtype)
        for t in scheduler.timesteps:
            with torch.no_grad():
                out = pipe(x, t).sample
            x = scheduler.step(out, t, x).prev_sample
        return x.sum().item()

    forward = _forward(spec, lambda x, t: net(x, t).sample)
    return Contestant(net, {"forward": forward, "step": lambda: loop.step(x0), "sample": sample})


def denoising_diffusion_pytorch(spec: Spec) -> Contestant:
    """Unet at dim 144 (no other width is nearer to the paper's size in steps of 16), its Trainer's step."""
    stand_in("torchvision", "pytorch_fid")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = spec.place(Unet(dim=144, dim_mults=(1, 2, 2, 2), dropout=0.1, flash_attn="flash" in spec.settings))
    diffusion = GaussianDiffusion(net, image_size=spec.shape[1]).to(spec.device)
    spec.compile(net)
    x0, loop = spec.images(), loops.denoising_diffusion_pytorch(diffusion, spec.precision)
    return Contestant(net, {"forward": _forward(spec, net), "step": lambda: loop.step(x0)})


def pytorch_ddpm(spec: Spec) -> Contestant:
    """w86763777's UNet, trainer and EMA; the loop of its main.py without logging."""
    sys.path.insert(0, str(Path(spec.sources) / "pytorch-ddpm"))
    stand_in("torchvision", "tensorboardX", "score")
    from model import UNet

    net = spec.place(UNet(T=1000, ch=128, ch_mult=[1, 2, 2, 2], attn=[1], num_res_blocks=2, dropout=0.1))
    spec.compile(net)
    x0, loop = spec.images(), loops.pytorch_ddpm(net, spec.precision)
    return Contestant(net, {"forward": _forward(spec, net), "step": lambda: loop.step(x0)})


def guided_diffusion(spec: Spec) -> Contestant:
    """OpenAI's UNetModel with the paper's choices (one head, additive time), its own TrainLoop's step (no clipping)."""
    sys.path.insert(0, str(Path(spec.sources) / "guided-diffusion"))
    stand_in("mpi4py", "blobfile")
    import torch.distributed as dist
    from guided_diffusion import logger, script_util
    from guided_diffusion.train_util import TrainLoop

    folder = tempfile.mkdtemp()
    logger.configure(dir=folder, format_strs=[])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    wanted = {
        **script_util.model_and_diffusion_defaults(),
        "image_size": spec.shape[1],
        "num_channels": 128,
        "channel_mult": "1,2,2,2",
        "attention_resolutions": "16",
        "num_heads": 1,
        "use_scale_shift_norm": False,
        "dropout": 0.1,
    }
    net, diffusion = script_util.create_model_and_diffusion(**wanted)
    net = spec.place(net)
    loop = TrainLoop(
        model=net,
        diffusion=diffusion,
        data=None,
        batch_size=spec.batch,
        microbatch=-1,
        lr=1e-4,
        ema_rate="0.9999",
        log_interval=10,
        save_interval=10_000,
        resume_checkpoint="",
    )
    spec.compile(net)
    x0 = spec.images()

    def step() -> object:
        with spec.precision():
            loop.run_step(x0, {})
        return None

    return Contestant(net, {"forward": _forward(spec, net), "step": step})


def _run(spec: Spec) -> Any:
    """Our run as ``alphabar train`` would build it: the preset of the model, or the recipe for such images."""
    import numpy as np

    from alphabar.data.batch import Images
    from alphabar.runtime.config import from_tables, merge, preset, presets
    from alphabar.runtime.recipes import recipe
    from alphabar.training.trainer import build

    tables = preset(spec.model) if spec.model in presets() else recipe(spec.shape, COUNTS[spec.model])
    over: dict[str, Any] = {"data": {"held_out": 0}, "net": spec.net, "run": {"batch": spec.batch, "steps": 10**6}}
    if "bf16" in spec.settings:
        over["run"]["precision"] = "bf16"
    over["run"]["activation_checkpointing"] = "checkpointing" in spec.settings
    pixels = np.random.default_rng(0).integers(0, 256, (4 * spec.batch, *spec.shape), dtype=np.uint8)
    images = Images(pixels, None, (), "noise", "noise")
    return build(from_tables(merge(tables, over)), images, spec.device)


def alphabar(spec: Spec) -> Contestant:
    """Ours: ``fit`` as ``train`` runs it, with its loader; the EMA's estimate; ancestral sampling along ``hops``."""
    from alphabar.base.allocator import keep_freed_memory
    from alphabar.process.chain import Chain
    from alphabar.samplers import Ancestral
    from alphabar.samplers.generate import frames
    from alphabar.training.trainer import fit

    keep_freed_memory()
    run = _run(spec)
    average = run.ema.denoiser
    spec.compile(run.denoiser.net, average.net)
    hop = next(iter(run.chain))
    steps = fit(run)
    x = spec.images()

    def forward() -> object:
        with torch.no_grad():
            return average(x, hop).out

    def sample() -> object:
        for frame in frames(average, Ancestral(), Chain.spaced(run.denoiser.schedule, spec.hops), range(spec.batch)):
            last = frame.x
        return last.sum().item()

    return Contestant(run.denoiser.net, {"forward": forward, "step": lambda: next(steps), "sample": sample})


def naive(spec: Spec) -> Contestant:
    """Our network as a plain loop runs it: float32, contiguous, Adam as torch makes it, the EMA weight by weight."""
    from alphabar.model.network import unet

    run = _run(spec)
    net = spec.place(unet(run.denoiser).to(memory_format=torch.contiguous_format))
    abar = run.chain.schedule.alpha_bar.float().to(spec.device)
    average = copy.deepcopy(net).eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    spec.compile(net, average)
    x0 = spec.images()

    def step() -> object:
        t = torch.randint(0, 1000, (spec.batch,), device=x0.device)
        eps = torch.randn_like(x0)
        kept = abar[t + 1][:, None, None, None]
        optimizer.zero_grad()
        loss = functional.mse_loss(net(kept.sqrt() * x0 + (1 - kept).sqrt() * eps, t), eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), net.parameters(), strict=True):
                mine.lerp_(theirs, 1e-4)
        return loss.item()

    return Contestant(net, {"forward": _forward(spec, average), "step": step})


CONTESTANTS: dict[str, Callable[[Spec], Contestant]] = {
    "alphabar": alphabar,
    "naive": naive,
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "pytorch-ddpm": pytorch_ddpm,
    "guided-diffusion": guided_diffusion,
}
