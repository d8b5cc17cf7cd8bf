"""Quality per minute: our default recipe beside the peers' on MNIST, at equal processor time.

    .venv-peers/bin/python scripts/quality_per_minute.py mnist.npz --who alphabar --minutes 2 6 30
    .venv-peers/bin/python scripts/quality_per_minute.py mnist.npz --who diffusers --minutes 15 30 [--seeds 0 1 2]

Every contestant trains on the same 60,000 images of 32×32 on one thread for as many minutes of processor time, with
its own defaults: network code, initialisation, loss, schedule, optimiser, rate, batch, EMA. Only the size of the
network is brought near to ours (about a million weights, which is what trains in minutes), and no one mirrors digits.
``--who "alphabar KEY=VALUE …"`` is ours with other settings, for the share of each part of the recipe.

All are judged alike: 1,000 samples of the averaged weights by DDIM in 50 steps, Fréchet distance to the training images
in the features of a classifier of MNIST that none was tuned on. A peer is judged on its way, at each of the minutes;
ours, whose rate falls to 0 at its end, is trained once for each. Results are added to those that
docs/results/quality-per-minute.json has. ``make quality`` makes the environment and runs what the table shows.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from benchmark.contestants import stand_in
from benchmark.sources import checkout
from results import RESULTS, machine, write
from torch import Tensor, nn
from torch.nn import functional

import alphabar as ab
from alphabar.cli.main import main as alphabar
from alphabar.data.batch import Images
from alphabar.evaluation.features.classifier import known_classifiers, open_classifier
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.moments import Moments
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.runtime.config import from_tables, merge, override
from alphabar.runtime.recipes import for_length, recipe
from alphabar.training.trainer import build, fit

SHAPE = (1, 32, 32)
SAMPLES, HOPS = 1000, 50
LINEAR, SIGMOID = ab.schedules.Linear(), ab.schedules.Sigmoid()


@dataclass
class Peer:
    """A peer under way: ``step`` trains on a batch [B, 1, 32, 32] in [−1, 1], ``average`` is its averaged network."""

    net: nn.Module
    batch: int
    step: Callable[[Tensor], object]
    average: Callable[[], ab.Denoiser]


def _denoiser(net: Callable[..., Tensor], schedule: Any, prediction: Any) -> ab.Denoiser:
    return ab.Denoiser(net, schedule.build(), shape=SHAPE, prediction=prediction, variance=ab.FixedSmall())


def diffusers() -> Peer:
    """The unconditional training example, with a network of four resolutions."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    net = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    schedule = DDPMScheduler(num_train_timesteps=1000)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100 * 60_000 // 16)

    def step(x0: Tensor) -> object:
        eps = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),))
        loss = functional.mse_loss(net(schedule.add_noise(x0, eps, t), t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        return loss.item()

    def average() -> ab.Denoiser:
        return _denoiser(lambda x, t: averaged(net, ema.shadow_params)(x, t).sample, LINEAR, ab.Eps())

    return Peer(net, 16, step, average)


def averaged(net: nn.Module, weights: Any) -> nn.Module:
    """A copy of a network in evaluation mode with other weights."""
    twin = copy.deepcopy(net).eval()
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), weights, strict=True):
            mine.copy_(theirs)
    return twin


def denoising_diffusion_pytorch() -> Peer:
    """The defaults of its Trainer and GaussianDiffusion: v, the sigmoid schedule, batch 16."""
    stand_in("torchvision", "pytorch_fid")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    net = Unet(dim=16, dim_mults=(1, 2, 4, 4), channels=1)
    diffusion = GaussianDiffusion(net, image_size=32)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)
    assert torch.allclose(diffusion.alphas_cumprod.double(), SIGMOID.build().alpha_bar[1:], atol=1e-4)

    def step(x0: Tensor) -> object:
        loss = diffusion((x0 + 1) / 2)
        total = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        return total

    return Peer(net, 16, step, lambda: _denoiser(ema.ema_model.model.eval(), SIGMOID, ab.V()))


def pytorch_ddpm(sources: Path) -> Peer:
    """The defaults of its main.py: batch 128, warm-up over 5,000 steps, EMA 0.9999."""
    sys.path.insert(0, str(sources))
    stand_in("tensorboardX", "score", "torchvision")
    import main as peer
    from diffusion import GaussianDiffusionTrainer

    from model import UNet

    net = UNet(T=1000, ch=32, ch_mult=[1, 2, 2, 2], attn=[1], num_res_blocks=1, dropout=0.1)
    net.head = nn.Conv2d(1, 32, 3, padding=1)
    net.tail[-1] = nn.Conv2d(32, 1, 3, padding=1)
    nn.init.xavier_uniform_(net.tail[-1].weight, gain=1e-5)
    nn.init.zeros_(net.tail[-1].bias)
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lambda step: min(step + 1, 5000) / 5000)
    trainer = GaussianDiffusionTrainer(net, 1e-4, 0.02, 1000)

    def step(x0: Tensor) -> object:
        optimizer.zero_grad()
        loss = trainer(x0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        rate.step()
        peer.ema(net, average, 0.9999)
        return loss.item()

    return Peer(net, 128, step, lambda: _denoiser(average.eval(), LINEAR, ab.Eps()))


def train_peer(peer: Peer, images: Tensor, minutes: list[float], seed: int) -> Iterator[tuple[float, int, ab.Denoiser]]:
    """(minutes of processor time, steps, averaged denoiser) at each of ``minutes``; judging it does not count."""
    order = torch.Generator().manual_seed(seed)
    spent, steps = 0.0, 0
    for goal in sorted(minutes):
        while spent < 60 * goal:
            began = time.process_time()
            x0 = images[torch.randint(0, len(images), (peer.batch,), generator=order)].float() / 127.5 - 1
            peer.step(x0)
            spent += time.process_time() - began
            steps += 1
        yield spent / 60, steps, peer.average()


def train_ours(data: Images, settings: list[str], minutes: float, seed: int) -> tuple[float, int, ab.Denoiser, int]:
    """The recipe for as many steps as take ``minutes`` of processor time, found by timing a few."""

    def run(steps: int) -> Any:
        tables = override(merge(recipe(data.shape, len(data), light=True), {"run": {"steps": steps}}), settings)
        # what was set by name is not derived from the length
        tables = override(merge(tables, for_length(steps, tables["run"]["batch"])), settings)
        return build(from_tables(merge(tables, {"seed": seed})), data, device="cpu")

    trial = fit(run(1000))
    for _ in range(3):
        next(trial)
    began = time.process_time()
    for _ in range(20):
        next(trial)
    each = (time.process_time() - began) / 20
    trained, began = run(max(1, int(60 * minutes / each))), time.process_time()
    for _ in fit(trained):
        pass
    spent = (time.process_time() - began) / 60
    return spent, trained.step, trained.ema.denoiser, sum(p.numel() for p in trained.denoiser.parameters())


class Judge:
    """Fréchet distance of samples to the training images, in the features of the classifier ``mnist``."""

    def __init__(self, train: Tensor, test: Tensor) -> None:
        self.features = open_classifier("mnist")
        self.real = self.moments(train)
        self.floor = self.distance(
            test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
        )

    def moments(self, images: Tensor) -> Moments:
        parts = (images[i : i + 500] for i in range(0, len(images), 500))
        return Moments.of(torch.cat([self.features(part).values for part in parts]))

    def distance(self, images: Tensor) -> float:
        return frechet_distance(self.moments(images), self.real)

    def __call__(self, denoiser: ab.Denoiser, picture: Path) -> float:
        chain = ab.Chain.spaced(denoiser.schedule, HOPS)
        images = ab.generate(denoiser, ab.samplers.DDIM(), chain, seeds=range(SAMPLES), batch=100)
        write_png(picture, grid(enlarge(images[:64])))
        return self.distance(images)


def lines(found: dict[str, Any]) -> list[str]:
    """The table: one line for each contestant and length."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault((row["who"], row["goal"]), []).append(row)
    table = []
    for (who, minutes), several in sorted(rows.items()):
        first, distances = several[0], " / ".join(f"{row['distance']:.3g}" for row in several)
        table.append(
            f"| {who} | {first['weights']:,} | {minutes:g} | {first['steps']:,} × {first['batch']} | {distances} |"
        )
    return [
        f"MNIST, 60,000 images of 32×32, one thread. {SAMPLES:,} samples by DDIM in {HOPS} steps, averaged weights; "
        f"Fréchet distance to the training images in the features of a classifier; of {SAMPLES:,} test images it is "
        f"**{found['floor']:.3g}**.",
        "",
        "| recipe | weights | minutes of processor time | steps × batch | Fréchet distance, one value per seed |",
        "|---|---|---|---|---|",
        *table,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--who", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 6, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers-source", type=Path, help="folder with pytorch-ddpm/ where it cannot be cloned")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    with np.load(arguments.mnist) as file:
        train, test = (np.pad(file[f"{part}_images"], ((0, 0), (2, 2), (2, 2))) for part in ("train", "test"))
        source = arguments.runs / "mnist32.npz"
        np.savez_compressed(source, images=train, labels=file["train_labels"])
    if "mnist" not in known_classifiers():
        assert alphabar(["classifier", str(source), "--name", "mnist"]) == 0
    pixels, held_out = (torch.from_numpy(part)[:, None] for part in (train, test))
    judge, data = Judge(pixels, held_out), ab.open_source(str(source))
    makers: dict[str, Callable[[], Peer]] = {
        "diffusers": diffusers,
        "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
        "pytorch-ddpm": lambda: pytorch_ddpm(checkout("pytorch-ddpm", arguments.peers_source)),
    }

    def keep(who: str, seed: int, goal: float, spent: float, steps: int, batch: int, weights: int, d: float) -> None:
        file = RESULTS / "quality-per-minute.json"
        before = json.loads(file.read_text())["rows"] if file.exists() else []
        row = {"who": who, "seed": seed, "goal": goal, "minutes": round(spent, 2), "steps": steps, "batch": batch}
        row |= {"weights": weights, "distance": d, "on": {k: machine()[k] for k in ("date", "processor", "torch")}}
        others = [old for old in before if (old["who"], old["seed"], old["goal"]) != (who, seed, goal)]
        found = {"floor": judge.floor, "rows": [*others, row]}
        write("quality-per-minute", "Quality per minute", found, lines(found))

    for seed in arguments.seeds:
        for who in arguments.who:
            picture = f"{re.sub(r'[^a-z0-9.]+', '-', who)}-{seed}"
            if who in makers:
                torch.manual_seed(seed)
                peer = makers[who]()
                weights = sum(p.numel() for p in peer.net.parameters())
                goals = iter(sorted(arguments.minutes))
                for spent, steps, denoiser in train_peer(peer, pixels, arguments.minutes, seed):
                    goal = next(goals)
                    distance = judge(denoiser, arguments.runs / f"{picture}-{goal:g}.png")
                    keep(who, seed, goal, spent, steps, peer.batch, weights, distance)
                continue
            name, *settings = who.split()
            if name != "alphabar":
                raise SystemExit(f"--who: got {who}, need alphabar or one of {', '.join(makers)}")
            for goal in arguments.minutes:
                spent, steps, denoiser, weights = train_ours(data, settings, goal, seed)
                distance = judge(denoiser, arguments.runs / f"{picture}-{goal:g}.png")
                batch = recipe(data.shape, len(data), light=True)["run"]["batch"]
                batch = next((int(s.partition("=")[2]) for s in settings if s.startswith("run.batch=")), batch)
                keep(who, seed, goal, spent, steps, batch, weights, distance)


if __name__ == "__main__":
    main()
