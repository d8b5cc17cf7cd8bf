"""Quality per minute: our default recipe beside the peers', at equal processor time.

    .venv-peers/bin/python scripts/quality_per_minute.py mnist --source mnist.npz --who alphabar --minutes 2 6 30
    .venv-peers/bin/python scripts/quality_per_minute.py digits --who diffusers --minutes 2 [--seeds 0 1 2]

Every contestant trains on the same images (see ``quality_data.py``) on one thread for as many minutes of processor
time, with its own defaults: network code, initialisation, loss, schedule, optimiser, rate, batch, EMA. Only the size of
the network is brought near to that of ours for MNIST (1 to 1.6 million weights, which is what trains in minutes), with
four channels or more in each group of a normalisation, as in the networks they ship; and no one mirrors.
``--who "alphabar KEY=VALUE …"`` is ours with other settings, for the share of each part of the recipe.

All are judged alike: 1,000 samples of the averaged weights by DDIM in 50 steps, Fréchet distance to the training images
in two sets of features: those by which our recipe was chosen, and those of a random network, by which nothing was
chosen for these images (for others than MNIST and the digits they are the first). And once more by what ``alphabar
sample`` does with any model where nothing else is asked for: 25 steps of SDE-DPM-Solver++, for tiny images 100 of the
paper's sampler. A peer is judged on its way, at each of the minutes; ours, whose rate falls to 0 at its end, is trained
once for each, and saved beside the picture. Results are added to those that docs/results/quality-per-minute.json has
(for other images than MNIST, quality-per-minute-NAME.json). ``make quality`` makes the environment and runs MNIST's
recipes with one seed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from benchmark import loops
from benchmark.contestants import stand_in
from benchmark.race import Failed
from benchmark.sources import checkout
from mnist32 import need_classifier
from quality_data import TASKS
from results import RESULTS, machine, write
from torch import Tensor, nn

import alphabar as ab
from alphabar.base.allocator import keep_freed_memory
from alphabar.base.errors import ConfigError
from alphabar.cli.sample import prepare
from alphabar.data.batch import Images
from alphabar.evaluation.features import FEATURES, open_features
from alphabar.evaluation.frechet import frechet_distance
from alphabar.evaluation.moments import Moments
from alphabar.evaluation.pictures import enlarge, grid, write_png
from alphabar.runtime.config import from_tables, merge, override
from alphabar.runtime.recipes import for_length, recipe
from alphabar.training.trainer import Run, build, fit

SAMPLES, HOPS = 1000, 50
CHANNELS_PER_GROUP = 4  # at the thinnest: 128 channels in 32 groups, as in the networks that the peers ship
UNTUNED = "random-conv"  # our few steps are even in ln SNR because of these, but on CIFAR-10 (docs/decisions.md, 47)


@dataclass(frozen=True)
class Peer:
    """A peer under way: ``loop`` trains on ``batch`` images, ``denoiser`` wraps its averaged network."""

    net: nn.Module
    batch: int
    loop: loops.Loop
    schedule: ab.schedules.Linear | ab.schedules.Sigmoid
    prediction: ab.Eps | ab.V
    shape: tuple[int, int, int]
    call: Callable[..., Tensor] = lambda net, x, t: net(x, t)

    def denoiser(self) -> ab.Denoiser:
        net = self.loop.averaged().eval()
        schedule, variance = self.schedule.build(), ab.FixedSmall()
        return ab.Denoiser(
            lambda x, t: self.call(net, x, t), schedule, shape=self.shape, prediction=self.prediction, variance=variance
        )


def diffusers(data: Images, sources: Path | None) -> Peer:
    """The unconditional training example, with a network of four resolutions, thin at the top as ours is.

    It normalises in fewer groups than its 32: the embedding of time is added to each channel as a whole, and in a group
    of one channel it would be taken out again.
    """
    from diffusers import UNet2DModel
    from diffusers.optimization import get_scheduler

    net = UNet2DModel(
        sample_size=data.shape[1],
        in_channels=data.shape[0],
        out_channels=data.shape[0],
        layers_per_block=2,
        block_out_channels=(16, 32, 64, 64),
        norm_num_groups=16 // CHANNELS_PER_GROUP,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    # its 100 epochs, of MNIST for every set: small sets go through more of them, after which this rate would rise again
    steps = 100 * 60_000 // 16
    epochs = partial(get_scheduler, "cosine", num_warmup_steps=500, num_training_steps=steps)
    loop = loops.diffusers(net, rate=lambda optimizer: epochs(optimizer=optimizer))
    return Peer(net, 16, loop, ab.schedules.Linear(), ab.Eps(), data.shape, lambda net, x, t: net(x, t).sample)


def denoising_diffusion_pytorch(data: Images, sources: Path | None) -> Peer:
    """The defaults of its Trainer and GaussianDiffusion: v, the sigmoid schedule, batch 16."""
    stand_in("torchvision", "pytorch_fid")
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net, schedule = Unet(dim=16, dim_mults=(1, 2, 4, 4), channels=data.shape[0]), ab.schedules.Sigmoid()
    diffusion = GaussianDiffusion(net, image_size=data.shape[1])
    assert torch.allclose(diffusion.alphas_cumprod.double(), schedule.build().alpha_bar[1:], atol=1e-4)
    return Peer(net, 16, loops.denoising_diffusion_pytorch(diffusion), schedule, ab.V(), data.shape)


def pytorch_ddpm(data: Images, sources: Path | None) -> Peer:
    """The defaults of its main.py: batch 128, warm-up over 5,000 steps, EMA 0.9999. Fewer groups, as for diffusers'."""
    sys.path.insert(0, str(checkout("pytorch-ddpm", sources)))
    stand_in("tensorboardX", "score", "torchvision")
    from model import UNet

    net = UNet(T=1000, ch=32, ch_mult=[1, 2, 2, 2], attn=[1], num_res_blocks=1, dropout=0.1)
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 32 // CHANNELS_PER_GROUP
    net.head = nn.Conv2d(data.shape[0], 32, 3, padding=1)
    net.tail[-1] = nn.Conv2d(32, data.shape[0], 3, padding=1)
    for layer, gain in ((net.head, 1.0), (net.tail[-1], 1e-5)):
        nn.init.xavier_uniform_(layer.weight, gain=gain)
        nn.init.zeros_(layer.bias)
    return Peer(net, 128, loops.pytorch_ddpm(net), ab.schedules.Linear(), ab.Eps(), data.shape)


OURS = "alphabar"
# by name: the images, the folder of sources that cannot be cloned
PEERS: dict[str, Callable[[Images, Path | None], Peer]] = {
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "pytorch-ddpm": pytorch_ddpm,
}


@dataclass(frozen=True)
class Trained:
    """What came of ``goal`` minutes of processor time."""

    goal: float
    minutes: float
    steps: int
    batch: int
    weights: int
    denoiser: ab.Denoiser


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def train_peer(peer: Peer, images: Tensor, goals: list[float], seed: int) -> Iterator[Trained]:
    """A peer at each of ``goals`` on its way; judging it does not count."""
    order = torch.Generator().manual_seed(seed)
    spent, steps = 0.0, 0
    for goal in sorted(goals):
        while spent < 60 * goal:
            began = time.process_time()
            x0 = images[torch.randint(0, len(images), (peer.batch,), generator=order)].float() / 127.5 - 1
            peer.loop.step(x0)
            spent += time.process_time() - began
            steps += 1
        yield Trained(goal, spent / 60, steps, peer.batch, parameters(peer.net), peer.denoiser())


def ours(data: Images, settings: list[str], steps: int, seed: int = 0) -> Run:
    """The recipe for a run of ``steps``, with other ``settings``."""
    tables = override(merge(recipe(data.shape, len(data), light=True), {"run": {"steps": steps}}), settings)
    # what was set by name is not derived from the length
    tables = override(merge(tables, for_length(steps, tables["run"]["batch"])), settings)
    return build(from_tables(merge(tables, {"seed": seed})), data, device="cpu")


def train_ours(data: Images, settings: list[str], goals: list[float], seed: int) -> Iterator[Trained]:
    """The recipe, once for each of ``goals``, for as many steps as take that long, found by timing a few."""
    keep_freed_memory()  # as the command does
    for goal in goals:
        trial = fit(ours(data, settings, 1000, seed))
        for _ in range(3):
            next(trial)
        began = time.process_time()
        for _ in range(20):
            next(trial)
        each = (time.process_time() - began) / 20
        trained, began = ours(data, settings, max(1, int(60 * goal / each)), seed), time.process_time()
        for _ in fit(trained):
            pass
        spent, batch = (time.process_time() - began) / 60, trained.config.run.batch
        yield Trained(goal, spent, trained.step, batch, parameters(trained.denoiser), trained.ema.denoiser)


class Judge:
    """Fréchet distances of samples to the training images, and of as many images as there are of ``test``."""

    def __init__(self, features: str, train: Tensor, test: Tensor) -> None:
        # by the ending of a column's name
        self.features = {"": open_features(features)}
        if features != UNTUNED:
            self.features["_untuned"] = open_features(UNTUNED)
        self.real = {column: self.moments(column, train) for column in self.features}
        unseen = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:SAMPLES]]
        self.facts = {
            "features": features,
            "images": len(train),
            "shape": list(train.shape[1:]),
            **self.distances("floor", unseen),
            "floor_images": len(unseen),
        }

    def moments(self, column: str, images: Tensor) -> Moments:
        parts = (images[i : i + 500] for i in range(0, len(images), 500))
        return Moments.of(torch.cat([self.features[column](part).values for part in parts]))

    def distances(self, what: str, images: Tensor) -> dict[str, float]:
        """The distances of ``images`` in all features."""
        return {
            what + column: frechet_distance(self.moments(column, images), real) for column, real in self.real.items()
        }

    def __call__(self, denoiser: ab.Denoiser, picture: Path) -> dict[str, float]:
        chain = ab.Chain.spaced(denoiser.schedule, HOPS)
        images = ab.generate(denoiser, ab.samplers.DDIM(), chain, seeds=range(SAMPLES), batch=100)
        write_png(picture, grid(enlarge(images[:64])))
        rule, chain, denoiser = prepare(denoiser, None, None, quiet=True)
        usual = ab.generate(denoiser, rule, chain, seeds=range(SAMPLES), batch=100)
        return {**self.distances("distance", images), **self.distances("usual", usual)}


def page(task: str) -> str:
    """The name of the page that holds the results for a task."""
    return "quality-per-minute" if task == "mnist" else f"quality-per-minute-{task}"


Rows = dict[tuple[str, float], list[dict[str, Any]]]


def rows_of(found: dict[str, Any]) -> Rows:
    """The measurements of every recipe and length, one for each seed."""
    rows: Rows = {}
    for row in sorted(found["rows"], key=lambda row: row["seed"]):
        rows.setdefault((row["who"], row["goal"]), []).append(row)
    return dict(sorted(rows.items()))


def base_of(who: str, minutes: float, rows: Rows) -> str:
    """What a change to our recipe is compared with: the same network with everything else as it is, if that was run."""
    network = " ".join([OURS, *(setting for setting in who.split() if setting.startswith("net."))])
    return network if network != who and (network, minutes) in rows else OURS


def facts_of(minutes: float, several: list[dict[str, Any]]) -> str:
    """The cells of a row that every table has."""
    distances = " / ".join(f"{row['distance']:.3g}" for row in several)
    spent = " / ".join(f"{row['minutes']:.1f}" for row in several)
    steps = " / ".join(f"{row['steps']:,}" for row in several)
    return f"{minutes:g} ({spent}) | {steps} × {several[0]['batch']} | {distances}"


def values_of(column: str, several: list[dict[str, Any]]) -> str:
    """The distances in a column that the first measurements have not."""
    return " / ".join(f"{row[column]:.3g}" if column in row else "–" for row in several)


def changes(rows: Rows) -> list[str]:
    """A table for every recipe that others were compared with."""
    tables: dict[str, list[str]] = {}
    for (who, minutes), several in rows.items():
        if who.split()[0] != OURS or who == OURS:
            continue
        base = base_of(who, minutes, rows)
        plain = {row["seed"]: row["distance"] for row in rows.get((base, minutes), ())}
        ratios = [row["distance"] / plain[row["seed"]] for row in several if row["seed"] in plain]
        worse = f"{statistics.geometric_mean(ratios):.2g}" if ratios else "–"
        changed = " ".join(setting for setting in who.split() if setting not in base.split())
        tables.setdefault(base, []).append(f"| `{changed}` | {facts_of(minutes, several)} | {worse} |")
    texts = []
    for base, table in sorted(tables.items()):
        of = "the recipe" if base == OURS else f"the recipe with `{' '.join(base.split()[1:])}`"
        texts += [
            f"Changes to {of}:",
            "",
            "| changed | processor minutes (taken) | steps × batch | Fréchet distance, one value per seed | ratio |",
            "|---|---|---|---|---|",
            *table,
            "",
        ]
    return texts


def lines(task: str, found: dict[str, Any]) -> list[str]:
    """The table of recipes, the figure, and the tables of what changes to ours do."""
    rows = rows_of(found)
    columns = {"usual": "as `alphabar sample` samples"}
    untuned = ""
    if found["features"] != UNTUNED:
        columns |= {
            "distance_untuned": f"in the features `{UNTUNED}`",
            "usual_untuned": "in those, as `alphabar sample` samples",
        }
        untuned = f", **{found['floor_untuned']:.3g}** in the features `{UNTUNED}`"
    recipes = [
        f"| {who} | {several[0]['weights']:,} | {facts_of(minutes, several)} | "
        f"{' | '.join(values_of(column, several) for column in columns)} |"
        for (who, minutes), several in rows.items()
        if " " not in who
    ]
    size = "×".join(map(str, found["shape"]))
    page_of_recipes = [
        f"{task}, {found['images']:,} images of {size}, one thread. {SAMPLES:,} samples by DDIM in {HOPS} steps, "
        f"averaged weights; Fréchet distance to the training images in the features `{found['features']}`; of "
        f"{found['floor_images']:,} images that nobody trained on it is **{found['floor']:.3g}**{untuned}.",
        "",
        "| recipe | weights | processor minutes (taken) | steps × batch | Fréchet distance, one value per seed | "
        f"{' | '.join(columns.values())} |",
        f"|---|---|---|---|---|{'---|' * len(columns)}",
        *recipes,
        "",
        f"![Fréchet distance against minutes of processor time]({page(task)}.png)",
    ]
    changed = changes(rows)
    if not changed:
        return page_of_recipes
    return [
        *page_of_recipes,
        "",
        "## The share of each part",
        "",
        "Our recipe with one part changed, at equal processor time; the last column is its distance over that of the "
        "recipe it was changed from, same seeds.",
        "",
        *changed[:-1],
    ]


def plot(found: dict[str, Any], file: Path) -> None:
    """The figure: distance against minutes, a line for each contestant through the medians of its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves: dict[str, dict[float, list[tuple[float, float]]]] = {}
    for row in found["rows"]:
        if " " not in row["who"]:  # without the ablations
            curves.setdefault(row["who"], {}).setdefault(row["goal"], []).append((row["minutes"], row["distance"]))
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for who, at in sorted(curves.items()):
        measured = [tuple(zip(*at[goal], strict=True)) for goal in sorted(at)]
        minutes = [statistics.median(taken) for taken, _ in measured]
        distances = [values for _, values in measured]
        (line,) = axes.plot(minutes, list(map(statistics.median, distances)), marker="o", markersize=4, label=who)
        axes.fill_between(
            minutes, list(map(min, distances)), list(map(max, distances)), color=line.get_color(), alpha=0.2
        )
    axes.axhline(found["floor"], color="grey", linestyle="--", label="real images")
    axes.set(xscale="log", yscale="log", xlabel="minutes of processor time, one thread", ylabel="Fréchet distance")
    goals = sorted({goal for at in curves.values() for goal in at})
    axes.set_xlim(goals[0] / 1.25, 1.25 * goals[-1])  # or the minutes taken for a single goal would fill the axis
    axes.set_xticks(goals)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def keep(task: str, who: str, seed: int, trained: Trained, distances: dict[str, float], judged: dict[str, Any]) -> None:
    """Add a row to what was measured before, in place of one of the same contestant, seed and goal."""
    file = RESULTS / f"{page(task)}.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    facts = {key: value for key, value in vars(trained).items() if key != "denoiser"}
    facts["minutes"] = round(trained.minutes, 2)
    here = machine()
    on = {key: here[key] for key in ("date", "processor", "torch", "commit")}
    row = {"who": who, "seed": seed, **facts, **distances, "on": on}
    others = [old for old in before if (old["who"], old["seed"], old["goal"]) != (who, seed, trained.goal)]
    found = {**judged, "rows": [*others, row]}
    plot(found, RESULTS / f"{page(task)}.png")
    title = "Quality per minute" if task == "mnist" else f"Quality per minute: {task}"
    call = f"python scripts/quality_per_minute.py {task} --who RECIPE --minutes M --seeds S"
    write(page(task), title, found, lines(task, found), command=call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--source", type=Path, help="where the data is, for tasks that need it")
    parser.add_argument("--who", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 6, 30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--peers-source", type=Path, help="folder with pytorch-ddpm/ where it cannot be cloned")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for who in arguments.who:
        if who.split()[0] != OURS and who not in PEERS:
            raise SystemExit(f"--who: got {who}, need {OURS} or one of {', '.join(PEERS)}")
    try:
        task = TASKS[arguments.task](arguments.source, arguments.runs)
        for who in arguments.who:  # before the hours, not after them
            if who in PEERS:
                PEERS[who](task.train, arguments.peers_source)
            else:
                ours(task.train, who.split()[1:], 1)
    except (ConfigError, Failed, ImportError) as error:
        raise SystemExit(str(error)) from None
    if task.features not in FEATURES:
        need_classifier(task.train.spec, task.features)
    pixels, unseen = (torch.from_numpy(np.array(images.pixels)) for images in (task.train, task.test))
    judge = Judge(task.features, pixels, unseen)

    def training(who: str, seed: int) -> Iterator[Trained]:
        if who in PEERS:
            torch.manual_seed(seed)
            return train_peer(PEERS[who](task.train, arguments.peers_source), pixels, arguments.minutes, seed)
        return train_ours(task.train, who.split()[1:], arguments.minutes, seed)

    for seed in arguments.seeds:
        for who in arguments.who:
            for trained in training(who, seed):
                name = f"{arguments.task}-{re.sub(r'[^a-z0-9.]+', '-', who)}-{seed}-{trained.goal:g}"
                distances = judge(trained.denoiser, arguments.runs / f"{name}.png")
                keep(arguments.task, who, seed, trained, distances, judge.facts)
                if who not in PEERS:
                    ab.save(trained.denoiser, arguments.runs / name)


if __name__ == "__main__":
    main()
