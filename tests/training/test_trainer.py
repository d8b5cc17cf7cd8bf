"""Algorithm 1 against a derivation of its own, and resuming as if nothing had happened."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.base.errors import CheckpointError, ConfigError, DataError, Diverged, KeyMismatch, OutOfMemory
from alphabar.data.batch import Images
from alphabar.model.network import unet
from alphabar.model.prediction import V
from alphabar.model.variance import LearnedRange
from alphabar.process.schedules import Cosine
from alphabar.training import trainer
from alphabar.training.objectives import Bound, Hybrid
from tiny import config, images, same


def build(images_=None, **over) -> trainer.Run:
    return trainer.build(config(**over), images_ if images_ is not None else images(), device="cpu")


def state(run: trainer.Run) -> dict[str, Tensor]:
    """Everything that training changes, copied."""
    found = {f"net.{n}": p for n, p in run.denoiser.state_dict().items()}
    found |= {f"ema.{n}": p for n, p in run.ema.denoiser.state_dict().items()}
    for name, p in run.denoiser.named_parameters():
        found |= {f"{key}.{name}": value for key, value in run.optimizer.state.get(p, {}).items()}
    return {name: value.detach().clone() for name, value in found.items()}


def steps(run: trainer.Run, n: int) -> list[trainer.Metrics]:
    """``n`` steps as ``fit`` makes them."""
    run.denoiser.train()
    return [trainer.train_step(run, run.loader.batch(run.step)) for _ in range(n)]


# --- Algorithm 1 ------------------------------------------------------------------------------------------------


def generator(seed: int, *keys: object) -> torch.Generator:
    text = "\x1f".join([str(seed), *(f"{type(k).__name__}:{k}" for k in keys)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") // 2)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_steps_equal_algorithm_1_by_hand(optimizer):
    decay = 0.1 if optimizer == "adamw" else 0.0
    run = build(optim={"optimizer": optimizer, "weight_decay": decay, "clip_norm": 0.5, "betas": (0.8, 0.99)})
    run.denoiser.train()
    # a second network with the same weights, trained by nothing but the paper's lines
    net = unet(build().denoiser).train()
    same(dict(net.state_dict()), dict(unet(run.denoiser).state_dict()))
    average = {n: p.detach().clone().double() for n, p in net.named_parameters()}
    first = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    second = {n: torch.zeros_like(p) for n, p in net.named_parameters()}
    felt = {n: torch.ones_like(p, dtype=torch.bool) for n, p in net.named_parameters()}
    betas = np.linspace(1e-4 * 50, min(0.02 * 50, 0.999), 20)
    abar = np.cumprod(1 - betas)
    for step in range(5):
        batch = run.loader.batch(step)
        metrics = trainer.train_step(run, batch)
        # 2: x_0 ~ q(x_0)
        x0 = (batch.x.double() / 255 * 2 - 1).float()
        # 3: t ~ Uniform({1, …, T}), one from each eighth
        rng = generator(3, "t", step)
        u = torch.rand(8, generator=rng, dtype=torch.float64)
        u = ((torch.arange(8) + u) / 8)[torch.randperm(8, generator=rng)]
        t = (u * 20).floor().long() + 1
        # 4: ε ~ N(0, I)
        eps = torch.randn(x0.shape, generator=generator(3, "eps", step))
        # 5: ∇ ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖²
        signal = torch.tensor(np.sqrt(abar[t.numpy() - 1])).float().view(8, 1, 1, 1)
        noise = torch.tensor(np.sqrt(1 - abar[t.numpy() - 1])).float().view(8, 1, 1, 1)
        loss = ((eps - net(signal * x0 + noise * eps, t - 1)) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in gradients))
        shrink = min(1.0, 0.5 / norm)
        lr = 1e-3 * min(1.0, (step + 1) / 2)
        with torch.no_grad():
            for (name, p), g in zip(net.named_parameters(), gradients, strict=True):
                first[name] = 0.8 * first[name] + 0.2 * shrink * g
                second[name] = 0.99 * second[name] + 0.01 * (shrink * g) ** 2
                m, v = first[name] / (1 - 0.8 ** (step + 1)), second[name] / (1 - 0.99 ** (step + 1))
                p.mul_(1 - lr * decay).sub_(lr * m / (v.sqrt() + 1e-8))
                keep = min(0.5 ** (8 / 64), (2 + step) / (11 + step))
                average[name] = keep * average[name] + (1 - keep) * p.double()
        assert metrics.loss == pytest.approx(loss.item(), rel=2e-5)
        assert metrics.grad_norm == pytest.approx(norm, rel=2e-4), "the norm before clipping"
        assert metrics.lr == pytest.approx(lr)
        assert (metrics.step, metrics.images) == (step + 1, 8 * (step + 1))
        for name, p in unet(run.denoiser).named_parameters():
            # where the gradient vanishes (the bias of an attention's keys), Adam divides rounding errors by each other
            felt[name] &= second[name].sqrt() > 1e-6
            assert felt[name].any() or name.endswith("in_proj_bias")
            mine, hand = p[felt[name]], net.get_parameter(name)[felt[name]]
            torch.testing.assert_close(mine, hand, rtol=0, atol=2e-5, msg=f"{name}, step {step}")
        for name, p in unet(run.ema.denoiser).named_parameters():
            mine, hand = p[felt[name]].double(), average[name][felt[name]]
            torch.testing.assert_close(mine, hand, rtol=0, atol=2e-5, msg=f"ema {name}, step {step}")
    assert sum(f.sum() for f in felt.values()) > 0.85 * sum(f.numel() for f in felt.values())


@pytest.mark.parametrize(
    "over",
    [
        {"prediction": V(), "schedule": Cosine(T=20)},
        {"objective": Bound()},
        {"objective": Hybrid(), "variance": LearnedRange(), "net": {"output_channels": 2}},
        {"run": {"precision": "bf16"}},
    ],
    ids=["v", "bound", "hybrid", "bf16"],
)
def test_every_kind_of_run_takes_a_step_that_changes_every_weight(over):
    run = build(**over)
    before = {n: p.detach().clone() for n, p in run.denoiser.named_parameters()}
    metrics = steps(run, 3)
    assert all(math.isfinite(m.loss) and m.grad_norm > 0 for m in metrics)
    after = dict(run.denoiser.named_parameters())
    assert all(p.dtype == torch.float32 for p in after.values())
    still = [n for n in before if torch.equal(before[n], after[n])]
    assert not still, f"these did not learn: {still[:5]}"


def test_losses_go_down_for_the_weights_and_for_their_average():
    run = build(run={"steps": 120}, optim={"lr": 2e-3, "warmup_steps": 5})
    before = trainer.held_out_loss(run, 256)
    losses = [m.loss for m in trainer.fit(run)]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])
    assert trainer.held_out_loss(run, 256) < 0.7 * before


def test_a_step_is_a_pure_function_of_seed_and_step():
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        torch.randn(noise * 10)
        run = build(net={"dropout_rate": 0.3})
        metrics = steps(run, 2)
        found.append((state(run), [(m.loss, m.grad_norm) for m in metrics]))
    same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_another_seed_gives_other_weights_images_times_and_noise():
    a, b = build(), build(seed=4)
    assert not torch.equal(unet(a.denoiser).first.weight, unet(b.denoiser).first.weight)
    assert not torch.equal(a.loader.batch(0).x, b.loader.batch(0).x)
    x = torch.zeros(8, 1, 8, 8)
    for key in ("t", "eps"):
        draws = [trainer.stream(seed, key, step).randn_like(x) for seed in (3, 4) for step in (0, 1)]
        assert len({d.numpy().tobytes() for d in draws}) == 4


def test_dropout_differs_from_step_to_step():
    run = build(net={"dropout_rate": 0.5})
    run.denoiser.train()
    batch, seen = run.loader.batch(0), []
    # the same weights, image, t and ε at two steps differ by dropout alone
    fixed = dataclasses.replace(run.config, optim=dataclasses.replace(run.config.optim, lr=1e-12))
    run.config = dataclasses.replace(fixed, times=Always())
    for step in (0, 1, 0):
        run.step = step
        unet(run.denoiser).final[2].register_forward_hook(lambda m, i, out: seen.append(out.detach().clone()))
        trainer.train_step(run, dataclasses.replace(batch, x=torch.zeros_like(batch.x)))
    assert not torch.equal(seen[0], seen[1])


@dataclasses.dataclass(frozen=True)
class Always:
    def draw(self, n, T, rng):
        return torch.full((n,), T), torch.ones(n, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Weighted:
    weights: tuple[float, ...]

    def draw(self, n, T, rng):
        return torch.full((n,), 5), torch.tensor(self.weights, dtype=torch.float64)


def test_importance_weights_multiply_each_images_loss():
    losses = []
    for i in range(8):
        run = build(times=Weighted(tuple(8.0 * (j == i) for j in range(8))))
        losses.append(steps(run, 1)[0].loss)
    together = steps(build(times=Weighted((1.0,) * 8)), 1)[0].loss
    assert np.mean(losses) == pytest.approx(together, rel=1e-5) and np.std(losses) > 0


def test_training_mode_and_where_it_ends():
    run = build(run={"steps": 4})
    seen = [(m.step, m.images, run.denoiser.training, run.ema.denoiser.training) for m in trainer.fit(run)]
    assert seen == [(k, 8 * k, True, False) for k in (1, 2, 3, 4)]
    assert run.step == 4 and list(trainer.fit(run)) == []


def test_fit_goes_on_where_it_was_left():
    run, other = build(), build()
    for m in trainer.fit(run):
        if m.step == 2:
            break
    list(trainer.fit(run))
    list(trainer.fit(other))
    same(state(run), state(other))


def test_the_loader_sees_the_training_images_only():
    run = build()
    assert (len(run.images), len(run.held_out)) == (32, 8)
    held = {row.tobytes() for row in run.held_out.pixels} | {row[..., ::-1].tobytes() for row in run.held_out.pixels}
    seen = {row.numpy().tobytes() for step in range(12) for row in run.loader.batch(step).x}
    assert not held & seen


# --- held-out loss ----------------------------------------------------------------------------------------------


def test_the_held_out_loss_does_not_move_between_calls_or_with_the_raw_weights():
    run = build(net={"dropout_rate": 0.3})
    first = trainer.held_out_loss(run, 300)
    steps_before = state(run)
    torch.manual_seed(12)
    assert trainer.held_out_loss(run, 300) == first
    same(state(run), steps_before)
    with torch.no_grad():
        for p in run.denoiser.parameters():
            p.add_(1)
    run.step = 5
    assert trainer.held_out_loss(run, 300) == first, "it is taken of the EMA weights, at fixed noise"
    with torch.no_grad():
        unet(run.ema.denoiser).final[2].bias.add_(1)
    assert trainer.held_out_loss(run, 300) != first


def test_the_held_out_loss_equals_the_definition():
    run = build(data={"held_out": 4})
    n = 12  # three rounds
    rng = generator(3, "held-out t")
    u = torch.rand(n, generator=rng, dtype=torch.float64)
    t = ((((torch.arange(n) + u) / n)[torch.randperm(n, generator=rng)]) * 20).floor().long() + 1
    eps = torch.randn((n, 1, 8, 8), generator=generator(3, "held-out eps", 0))
    x0 = torch.from_numpy(np.array(run.held_out.pixels)).float().repeat(3, 1, 1, 1) / 127.5 - 1
    abar = run.chain.schedule.alpha_bar[t].view(n, 1, 1, 1)
    with torch.no_grad():
        out = unet(run.ema.denoiser)((abar.sqrt() * x0 + (1 - abar).sqrt() * eps).float(), t - 1)
    assert trainer.held_out_loss(run, n) == pytest.approx(((eps - out) ** 2).mean().item(), rel=1e-5)


def test_without_held_out_images_there_is_no_held_out_loss():
    assert trainer.held_out_loss(build(data={"held_out": 0})) is None


def test_the_held_out_loss_spans_batches():
    run = build()
    few, many = trainer.held_out_loss(run, 8), trainer.held_out_loss(run, 1000)
    assert few != many and few == pytest.approx(many, rel=0.5)


# --- labels -----------------------------------------------------------------------------------------------------


def test_labels_travel_to_the_network_in_training_and_held_out():
    run = build(images(classes=5), net={"num_classes": 5})
    seen: list[Tensor] = []

    def look(module, arguments, keywords):
        seen.append(keywords["y"])

    for denoiser in (run.denoiser, run.ema.denoiser):
        denoiser.net.register_forward_pre_hook(look, with_kwargs=True)
    batch = run.loader.batch(0)
    steps(run, 1)
    assert torch.equal(seen[0], batch.y) and len(batch.y.unique()) > 1
    trainer.held_out_loss(run, 16)
    assert torch.equal(seen[1], torch.from_numpy(np.array(run.held_out.labels)).repeat(2))


def test_labels_stay_out_of_a_network_without_classes():
    run = build(images(classes=5))
    steps(run, 1)
    assert trainer.held_out_loss(run, 8) is not None


def test_a_network_with_classes_needs_labels_it_has_room_for():
    with pytest.raises(ConfigError, match=r"num_classes.*3.*0"):
        build(net={"num_classes": 3})
    with pytest.raises(ConfigError, match=r"num_classes.*3.*5"):
        build(images(classes=5), net={"num_classes": 3})
    build(images(classes=5), net={"num_classes": 6})


# --- what cannot work -------------------------------------------------------------------------------------------


def test_the_network_must_fit_the_images():
    with pytest.raises(ConfigError, match=r"input_channels.*1.*3"):
        build(images(channels=3))
    odd = Images(np.zeros((20, 1, 7, 8), np.uint8), None, (), "odd", "odd")
    with pytest.raises(ConfigError, match=r"7x8.*divisible"):
        build(odd)
    with pytest.raises(ConfigError, match=r"held_out.*40"):
        build(data={"held_out": 40})


@dataclasses.dataclass(frozen=True)
class Broken:
    """A loss that is not finite, or one whose gradient is not."""

    how: str

    def __call__(self, est, x0, eps, tr):
        good = ((est.out - eps) ** 2).flatten(1).mean(1)
        if self.how == "nan":
            return good * math.nan
        if self.how == "inf":
            return good + math.inf
        # sqrt has an infinite slope at 0
        return good + (est.out * 0).abs().sqrt().flatten(1).sum(1)


def test_the_average_does_not_notice_steps_that_were_skipped(monkeypatch):
    """Its warm-up counts its own updates."""
    run, numbers = build(), []
    good = run.config
    monkeypatch.setattr(run.ema, "update", lambda denoiser, update: numbers.append(update))
    run.config = dataclasses.replace(good, objective=Broken("nan"))
    steps(run, 2)
    run.config = good
    steps(run, 2)
    assert numbers == [1, 2]


def test_a_run_that_has_only_skipped_goes_on(tmp_path):
    """Its optimiser has nothing to keep yet."""
    run = build()
    good = run.config
    run.config = dataclasses.replace(good, objective=Broken("nan"))
    steps(run, 1)
    run.config = good
    trainer.save(run, tmp_path / "step-000000001", {"metrics_lines": 1})
    again = build()
    trainer.resume(again, tmp_path / "step-000000001")
    assert (again.step, again.skipped) == (1, 1)
    steps(run, 1), steps(again, 1)
    same(state(again), state(run))


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_what_the_optimiser_kept_is_put_where_its_weights_are(tmp_path):
    """All of it: torch's fused optimisers want the count of steps there too."""
    run = build()
    steps(run, 1)
    trainer.save(run, tmp_path / "step-000000001", {"metrics_lines": 1})
    elsewhere = trainer.build(config(), images(), device="meta")
    trainer.resume(elsewhere, tmp_path / "step-000000001")
    kept = [value for state in elsewhere.optimizer.state.values() for value in state.values()]
    assert kept and {value.device.type for value in kept} == {"meta"}


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_touches_nothing(how):
    run = build()
    steps(run, 2)
    before, good = state(run), run.config
    run.config = dataclasses.replace(run.config, objective=Broken(how))
    (skipped,) = steps(run, 1)
    assert skipped.skipped and (run.step, run.skipped, run.skipped_in_a_row) == (3, 1, 1)
    assert not (math.isfinite(skipped.loss) and math.isfinite(skipped.grad_norm))
    same(state(run), before)
    run.config = good
    (after,) = steps(run, 1)
    assert not after.skipped and (run.step, run.skipped, run.skipped_in_a_row) == (4, 1, 0)
    assert all(torch.isfinite(value).all() for value in state(run).values())
    # as if that step's batch, times and noise had never been there
    other = build()
    steps(other, 2)
    other.step, other.skipped = 3, 1
    steps(other, 1)
    same(state(run), state(other))


def test_three_in_a_row_end_the_training():
    run = build(run={"steps": 9})
    run.config = dataclasses.replace(run.config, objective=Broken("nan"))
    seen = []
    with pytest.raises(Diverged, match=r"step 3: .*3 steps in a row.*optim\.lr") as caught:
        seen.extend(trainer.fit(run))
    assert caught.value.exit_code == 6 and len(seen) == run.step == 3 and all(m.skipped for m in seen)


def test_a_restart_is_a_new_run_at_another_rate():
    run, other = build(), build()
    steps(run, 3)
    trainer.restart(run, lr_scale=0.5)
    same(state(run), state(other))
    assert steps(run, 1)[0].lr == pytest.approx(0.5 * steps(other, 1)[0].lr)


# --- micro-batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 7, 8, 50])
@pytest.mark.parametrize(
    "over",
    [{}, {"objective": Hybrid(), "variance": LearnedRange(), "net": {"output_channels": 2}}],
    ids=["simple", "hybrid"],
)
def test_micro_batches_give_the_same_weights(micro_batch, over):
    whole, parts = build(**over), build(**over, run={"micro_batch": micro_batch})
    one, other = steps(whole, 5), steps(parts, 5)
    for a, b in zip(one, other, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)
    found = state(parts)
    for name, value in state(whole).items():
        assert (value - found[name]).abs().max() < 1e-4, name


def test_micro_batches_keep_the_labels_with_their_images():
    labelled = images(classes=4)
    whole, parts = (
        build(labelled, net={"num_classes": 4}, run={"micro_batch": size, "batch": 6}) for size in (None, 4)
    )
    assert steps(whole, 1)[0].loss == pytest.approx(steps(parts, 1)[0].loss, rel=1e-6)


def kept_bytes(run: trainer.Run) -> int:
    """What a step's forward pass keeps for its backward pass, beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in run.denoiser.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        steps(run, 1)
    return sum(kept.values())


@pytest.mark.parametrize(
    "over",
    [{}, {"net": {"num_classes": 5, "dropout_rate": 0.3, "num_res_blocks": 2}}, {"run": {"precision": "bf16"}}],
    ids=["plain", "dropout and labels", "bf16"],
)
def test_activation_checkpointing_keeps_less_and_gives_the_same_weights_to_the_last_bit(over):
    again = {**over, "run": {**over.get("run", {}), "activation_checkpointing": True}}
    plain, sparing = build(images(classes=5), **over), build(images(classes=5), **again)
    assert [(m.loss, m.grad_norm) for m in steps(plain, 3)] == [(m.loss, m.grad_norm) for m in steps(sparing, 3)]
    same(state(plain), state(sparing))
    assert kept_bytes(sparing) < 0.6 * kept_bytes(plain)


class Small:
    """Memory for ``fits`` images at once."""

    def __init__(self, run: trainer.Run, fits: int, monkeypatch) -> None:
        self.most = 0
        real = unet(run.denoiser).forward

        def forward(x, *arguments, **keywords):
            if len(x) > fits:
                raise RuntimeError(
                    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate "
                    "4000000000 bytes. Error code 12"
                )
            self.most = max(self.most, len(x))
            return real(x, *arguments, **keywords)

        monkeypatch.setattr(unet(run.denoiser), "forward", forward)


@pytest.mark.parametrize(("fits", "advised"), [(7, 4), (4, 4), (3, 2), (1, 1)])
def test_exhausted_memory_advises_the_micro_batch_that_fits(monkeypatch, fits, advised):
    run = build()
    before = state(run)
    Small(run, fits, monkeypatch)
    with pytest.raises(OutOfMemory, match=rf"batch 8 \(asked for 4\.0 GB\); --micro-batch {advised} fits") as caught:
        steps(run, 1)
    assert caught.value.exit_code == 8 and caught.value.micro_batch == advised
    same(state(run), before)
    run.config = dataclasses.replace(run.config, run=dataclasses.replace(run.config.run, micro_batch=advised))
    (made,) = steps(run, 1)
    other = build()
    assert made.loss == pytest.approx(steps(other, 1)[0].loss, rel=1e-6)


def test_the_held_out_loss_halves_what_does_not_fit(monkeypatch, caplog):
    run = build()
    whole = trainer.held_out_loss(run, 100)
    memory = Small(dataclasses.replace(run, denoiser=run.ema.denoiser), 10, monkeypatch)
    assert trainer.held_out_loss(run, 100) == pytest.approx(whole, rel=1e-6)
    assert 0 < memory.most <= 10 and len(caplog.records) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
    ids=["accelerator", "cpu"],
)
def test_memory_for_not_even_one_image(monkeypatch, error):
    run = build()
    before = state(run)

    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(unet(run.denoiser), "forward", fail)
    with pytest.raises(OutOfMemory, match=r"batch 8.*activation_checkpointing=true, or a smaller network") as caught:
        steps(run, 1)
    assert caught.value.exit_code == 8
    monkeypatch.undo()
    same(state(run), before)


def test_other_runtime_errors_are_not_called_memory(monkeypatch):
    run = build()

    def fail(*arguments, **keywords):
        raise RuntimeError("a bug")

    monkeypatch.setattr(unet(run.denoiser), "forward", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        steps(run, 1)


# --- resuming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {"net": {"dropout_rate": 0.3}},
        {"net": {"dropout_rate": 0.3, "num_classes": 5}, "optim": {"optimizer": "adamw", "rate": "cosine"}},
        {"net": {"base_channels": 16, "num_classes": 5}, "optim": {"optimizer": "muon"}},
        {"net": {"total_time_steps": 20}},
        {"run": {"precision": "bf16"}},
    ],
    ids=["dropout", "classes", "muon", "table", "bf16"],
)
def test_six_steps_equal_three_and_three_more_to_the_last_bit(tmp_path, over):
    through, before = build(images(classes=5), **over), build(images(classes=5), **over)
    expected = [(m.step, m.loss, m.grad_norm, m.lr) for m in trainer.fit(through)]
    steps(before, 3)
    trainer.save(before, tmp_path / "step", {"note": 7})
    torch.manual_seed(77)
    after = build(images(classes=5), **over)
    found = trainer.resume(after, tmp_path / "step")
    assert found["note"] == 7 and after.step == found["step"] == 3
    same(state(after), state(before))
    assert [(m.step, m.loss, m.grad_norm, m.lr) for m in trainer.fit(after)] == expected[3:]
    same(state(after), state(through))
    assert trainer.held_out_loss(after, 16) == trainer.held_out_loss(through, 16)


def test_saving_changes_nothing(tmp_path):
    run, other = build(net={"dropout_rate": 0.3}), build(net={"dropout_rate": 0.3})
    for m in trainer.fit(run):
        trainer.save(run, tmp_path / str(m.step), {})
    list(trainer.fit(other))
    same(state(run), state(other))


def test_a_step_can_be_saved_before_the_first_update_and_gone_on_from(tmp_path):
    run = build()
    trainer.save(run, tmp_path / "step", {})
    other = build()
    trainer.resume(other, tmp_path / "step")
    assert other.step == 0
    steps(run, 2)
    steps(other, 2)
    same(state(run), state(other))


def test_resuming_on_other_images_is_refused(tmp_path):
    run = build()
    steps(run, 1)
    trainer.save(run, tmp_path / "step", {})
    changed = images()
    pixels = np.array(changed.pixels)
    pixels[3, 0, 4, 4] ^= 1
    other = build(dataclasses.replace(changed, pixels=pixels))
    before = state(other)
    with pytest.raises(DataError, match="images differ") as caught:
        trainer.resume(other, tmp_path / "step")
    assert caught.value.exit_code == 3 and other.step == 0
    same(state(other), before)


def test_resuming_another_network_is_refused(tmp_path):
    run = build()
    steps(run, 1)
    trainer.save(run, tmp_path / "step", {})
    with pytest.raises(KeyMismatch):
        trainer.resume(build(net={"base_channels": 16}), tmp_path / "step")
    (tmp_path / "step" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="optimizer"):
        trainer.resume(build(), tmp_path / "step")
