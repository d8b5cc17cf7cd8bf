"""Checkpoints: what is loaded is what was saved, or an error; no failure loses an older one; nothing is unpickled."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

import alphabar as ab
from alphabar.base import storage
from alphabar.base.errors import CheckpointError, KeyMismatch, StorageError, UnknownFormat
from alphabar.model.network import unet
from alphabar.process.chain import Chain
from alphabar.process.schedules import Cosine, Linear
from alphabar.training import trainer
from alphabar.weights import checkpoint
from tiny import config, files, images, net, reseal, same

SCHEDULE = Linear(T=20).build()
PREDICTIONS = [ab.Eps, ab.X0, ab.V, ab.Mean, ab.Score]
VARIANCES = [ab.FixedSmall, ab.FixedLarge, ab.Learned, ab.LearnedRange]
FILES = ["model.json", "ema.safetensors", "net.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def denoiser(schedule=SCHEDULE, **conventions) -> ab.Denoiser:
    channels = getattr(conventions.get("variance"), "channels", 1)
    # the layout of a loaded network: another one rounds differently
    built = net(output_channels=channels).to(memory_format=torch.channels_last)
    return ab.Denoiser(built, schedule, shape=(1, 8, 8), **conventions)


def check_equal(a: ab.Denoiser, b: ab.Denoiser) -> None:
    """Both give the same numbers at several hops."""
    assert torch.equal(a.schedule.alpha_bar, b.schedule.alpha_bar)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for hop in list(Chain.full(a.schedule))[::6]:
        with torch.no_grad():
            one, two = a.eval()(x, hop), b(x, hop)
        assert one.out.dtype == two.out.dtype
        for name in ("out", "x0", "eps", "mean", "mean_raw"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert torch.equal(torch.as_tensor(one.log_var), torch.as_tensor(two.log_var))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with two steps saved. Copy it before you break it."""
    run = trainer.build(config(), images(), device="cpu")
    folder = tmp_path_factory.mktemp("runs") / "run"
    for metrics in trainer.fit(run):
        if metrics.step in (3, 6):
            trainer.save(run, folder / f"step-{metrics.step:09d}", {"metrics_lines": metrics.step})
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def newest(run) -> Path:
    return run / "step-000000006"


# --- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_convention_survives(tmp_path, prediction, variance):
    for clip in (None, ab.Clip(0.7)):
        saved = denoiser(prediction=prediction(), variance=variance(), clip=clip)
        ab.save(saved, tmp_path / "model")
        loaded = ab.load(tmp_path / "model")
        assert (loaded.prediction, loaded.variance, loaded.clip) == (saved.prediction, saved.variance, saved.clip)
        check_equal(saved, loaded)


@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(T=7).build(),
        ab.Schedule.from_betas(torch.tensor([0.1, 1 / 3, 0.7, 0.9999], dtype=torch.float64)),
        ab.Schedule.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    ],
    ids=["cosine", "betas", "paper"],
)
def test_every_schedule_survives_to_the_last_bit(tmp_path, schedule):
    saved = denoiser(schedule)
    ab.save(saved, tmp_path / "model")
    loaded = ab.load(tmp_path / "model")
    assert torch.equal(loaded.schedule.alpha_bar, schedule.alpha_bar)
    check_equal(saved, loaded)


def test_every_field_of_the_network_and_low_precision_survive(tmp_path):
    built = net(num_classes=3, total_time_steps=30, norm_eps=1e-3, small_init=True, asymmetric_padding=True)
    saved = ab.Denoiser(built, SCHEDULE, shape=(1, 8, 8), autocast=torch.bfloat16)
    ab.save(saved, tmp_path / "model")
    loaded = ab.load(tmp_path / "model")
    assert unet(loaded).config == built.config and loaded.autocast == torch.bfloat16
    assert loaded.shape == (1, 8, 8) and isinstance(loaded.shape, tuple)
    same(dict(built.state_dict()), dict(unet(loaded).state_dict()))


def test_a_loaded_denoiser_is_ready_to_sample(run):
    loaded = ab.load(run)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert ab.generate(loaded, ab.samplers.DDIM(), Chain.spaced(loaded.schedule, 2), range(2)).shape == (2, 1, 8, 8)


def test_load_takes_a_run_a_step_or_a_saved_model(run, newest, tmp_path, monkeypatch):
    of_run, of_step = ab.load(run), ab.load(str(newest))
    check_equal(of_run, of_step)
    ema = safetensors.torch.load_file(newest / "ema.safetensors")
    raw = safetensors.torch.load_file(newest / "net.safetensors")
    same(ema, dict(unet(of_run).state_dict()))
    same(raw, dict(unet(ab.load(run, weights="net")).state_dict()))
    assert any(not torch.equal(ema[name], raw[name]) for name in ema)
    older = ab.load(run / "step-000000003")
    assert not torch.equal(unet(older).first.weight, unet(of_run).first.weight)
    ab.save(of_run, tmp_path / "model")
    check_equal(of_run, ab.load(tmp_path / "model"))
    monkeypatch.chdir(newest)
    check_equal(of_run, ab.load("."))


def test_loading_writes_nothing_and_does_not_touch_the_random_state(run):
    before, state = files(run), torch.get_rng_state()
    ab.load(run)
    assert files(run) == before
    assert torch.equal(torch.get_rng_state(), state), "loading a model changes what the caller draws next"


def test_only_a_unet_can_be_saved(tmp_path):
    with pytest.raises(ab.AlphabarError, match="UNet"):
        ab.save(ab.Denoiser(torch.nn.Conv2d(1, 1, 1), SCHEDULE, shape=(1, 8, 8)), tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_saved_without_raw_weights_says_what_it_holds(tmp_path):
    ab.save(denoiser(), tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"net.*ema"):
        ab.load(tmp_path / "model", weights="net")


# --- damage -----------------------------------------------------------------------------------------------------


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


def bit_flip(folder: Path, name: str) -> None:
    rng = random.Random(name)
    flip(folder / name, rng.randrange((folder / name).stat().st_size), rng.randrange(8))


def first_bit(folder: Path, name: str) -> None:
    flip(folder / name, 0, 0)


def last_bit(folder: Path, name: str) -> None:
    # of manifest.json, a newline may follow the last brace
    flip(folder / name, len((folder / name).read_bytes().rstrip()) - 1, 0)


def truncate(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: random.Random(name).randrange(1, len(data))])


def one_byte_short(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes().rstrip()[:-1])


def empty(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")


def zero_page(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    start = min(4096, len(data) // 2)
    length = min(4096, len(data) - start)
    data[start : start + length] = bytes(length)
    (folder / name).write_bytes(bytes(data))


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def append(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"x")


def of_other_step(folder: Path, name: str) -> None:
    other = folder.parent / "step-000000003" / name
    if other.read_bytes() == (folder / name).read_bytes():
        other = folder.parent / "step-000000003" / "state.json"
    shutil.copy(other, folder / name)


def becomes_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


DAMAGES = [
    bit_flip,
    first_bit,
    last_bit,
    truncate,
    one_byte_short,
    empty,
    zero_page,
    remove,
    append,
    of_other_step,
    becomes_folder,
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_a_run_falls_back_with_one_warning(run, newest, damage, name, caplog):
    damage(newest, name)
    with pytest.raises(CheckpointError) as caught:
        ab.load(newest)
    assert caught.value.exit_code == 4 and str(caught.value).isprintable()
    assert "step-000000006" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        loaded = ab.load(run)
    assert [r.name for r in caplog.records] == ["alphabar"]
    assert "step-000000006" in caplog.text
    older = safetensors.torch.load_file(run / "step-000000003" / "ema.safetensors")
    same(older, dict(unet(loaded).state_dict()))


def test_an_extra_file_is_found(newest):
    (newest / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        ab.load(newest)


def test_every_byte_of_the_manifest_is_guarded(newest):
    """One bit of every byte, the version strings too."""
    path = newest / "manifest.json"
    good = path.read_bytes()
    unseen = []
    for position in range(len(good)):
        flip(path, position, position % 7)
        try:
            checkpoint.verify(newest)
        except CheckpointError:
            pass
        else:
            unseen.append((position, path.read_bytes()[max(0, position - 12) : position + 5]))
        path.write_bytes(good)
    assert not unseen


def test_one_bit_anywhere_in_the_weights_is_found(newest):
    path = newest / "ema.safetensors"
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(40):
        flip(path, rng.randrange(len(good)), rng.randrange(8))
        with pytest.raises(CheckpointError, match=r"ema\.safetensors.*SHA-256"):
            ab.load(newest)
        path.write_bytes(good)
    ab.load(newest)


def test_a_step_under_the_name_of_another_step_is_found(run, newest, monkeypatch):
    shutil.copytree(newest, run / "step-000000009")
    with pytest.raises(CheckpointError, match=r"step-000000009: holds another step"):
        checkpoint.verify(run / "step-000000009")
    assert checkpoint.find(run) == newest
    monkeypatch.chdir(run / "step-000000009")
    with pytest.raises(CheckpointError, match="another step"):
        ab.load(".")


def test_a_damaged_step_that_was_asked_for_names_an_intact_one(run, newest):
    first_bit(newest, "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: SHA-256 differs.*step-000000003 is intact") as caught:
        ab.load(newest)
    assert str(caught.value).count("\n") == 0
    first_bit(run / "step-000000003", "net.safetensors")
    with pytest.raises(CheckpointError) as caught:
        ab.load(newest)
    assert "intact" not in str(caught.value)


def test_a_checkpoint_that_the_disk_cannot_read_is_damaged(run, newest, monkeypatch):
    real = storage.sha256

    def broken(path):
        if path.parent == newest:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(storage, "sha256", broken)
    with pytest.raises(CheckpointError, match="cannot be read"):
        ab.load(newest)
    assert checkpoint.find(run).name == "step-000000003"


def test_a_run_whose_every_step_is_damaged_is_an_error(run, newest):
    for step in checkpoint.steps(run):
        first_bit(step, "ema.safetensors")
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is intact"):
        ab.load(run)


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": []}', '{"files": {"ema.safetensors": 3}}', "null", "7"])
def test_a_manifest_of_another_kind_is_an_error(newest, content):
    (newest / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="manifest"):
        ab.load(newest)


def test_a_manifest_cannot_point_outside(newest, tmp_path):
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": storage.sha256(tmp_path / "secret")}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        ab.load(newest)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "file.pt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"nowhere.*no such"):
        ab.load(tmp_path / "nowhere")
    with pytest.raises(UnknownFormat, match="file"):
        ab.load(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="empty"):
        ab.load(tmp_path / "empty")


# --- files that agree with their manifest and are wrong all the same --------------------------------------------


def model_json(folder: Path, **changes) -> None:
    model = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(model))
    reseal(folder)


def test_a_newer_format_is_refused_by_number(newest):
    model_json(newest, format=2)
    with pytest.raises(CheckpointError, match=r"format 2.*format 1"):
        ab.load(newest)


def test_a_schedule_that_is_not_the_one_trained_on_is_refused(newest):
    model_json(newest, schedule={"kind": "linear", "T": 20, "beta_T": 0.9})
    with pytest.raises(CheckpointError, match="alpha_bar"):
        ab.load(newest)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": None},
        {"shape": [1, 8]},
        {"shape": "abc"},
        {"shape": [3, 8, 8]},
        {"shape": [1, -8, 8]},
        {"net": {"base_channels": 2**40}},
        {"net": {"base_chanels": 8}},
        {"net": None},
        {"net": []},
        {"schedule": None},
        {"schedule": {"kind": "linear", "T": 10**12}},
        {"prediction": {"kind": "__import__"}},
        {"prediction": "eps"},
        {"variance": {"kind": "learned"}},
        {"clip": "one"},
        {"clip": -1},
        {"autocast": "float8"},
        {"autocast": []},
    ],
    ids=repr,
)
def test_a_description_that_makes_no_sense_is_refused(newest, changes):
    model_json(newest, **changes)
    with pytest.raises(CheckpointError) as caught:
        ab.load(newest)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("content", ["[]", "{}", "null", '"x"', "{"])
def test_a_description_of_another_kind_is_refused(newest, content):
    (newest / "model.json").write_text(content)
    reseal(newest)
    with pytest.raises(CheckpointError):
        ab.load(newest)


def weights(folder: Path, change) -> None:
    path = folder / "ema.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))
    reseal(folder)


def test_other_shapes_name_the_first_difference_and_both_shapes(newest):
    weights(newest, lambda t: t.update({"first.weight": torch.zeros(8, 1, 5, 5)}))
    with pytest.raises(KeyMismatch, match=r"first\.weight.*\[8, 1, 5, 5\].*\[8, 1, 3, 3\]") as caught:
        ab.load(newest)
    assert caught.value.exit_code == 4


def test_missing_and_unexpected_tensors_are_counted_and_the_first_named(newest):
    weights(newest, lambda t: [t.pop("first.weight"), t.pop("first.bias")])
    with pytest.raises(KeyMismatch, match=r"2 tensors missing, 0 unexpected.*first\.bias"):
        ab.load(newest)
    weights(newest, lambda t: t.update({"first.weight": torch.zeros(1), "first.bias": torch.zeros(1)}))
    weights(newest, lambda t: t.update({"zzz": torch.zeros(1)}))
    with pytest.raises(KeyMismatch, match=r"0 tensors missing, 1 unexpected.*zzz"):
        ab.load(newest)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_when_read(newest, bad):
    weights(newest, lambda t: t["final.2.weight"].view(-1)[5].fill_(bad))
    with pytest.raises(CheckpointError, match=r"non-finite.*final\.2\.weight"):
        ab.load(newest)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path, bad):
    ab.save(denoiser(), tmp_path / "model")
    before = files(tmp_path)
    broken = denoiser()
    with torch.no_grad():
        unet(broken).final[2].bias[0] = bad
    with pytest.raises(CheckpointError, match=r"non-finite.*final\.2\.bias"):
        ab.save(broken, tmp_path / "model")
    with pytest.raises(CheckpointError, match="non-finite"):
        ab.save(broken, tmp_path / "other")
    assert files(tmp_path) == before


def header(entries, body: bytes) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**62) + b"{}",
        header({"a": A}, b"\0" * 7),
        header({"a": A}, b"\0" * 9),
        header({"a": A, "b": {**A, "data_offsets": [4, 12]}}, b"\0" * 12),
        header({"a": A, "b": {**A, "data_offsets": [12, 20]}}, b"\0" * 20),
        header({"a": {**A, "shape": [2**62, 4]}}, b"\0" * 8),
        header({"a": {**A, "dtype": "F99"}}, b"\0" * 8),
        header({"a": {**A, "data_offsets": [8, 0]}}, b"\0" * 8),
        header(b"not json", b""),
        header(b"[]", b""),
        b"\x80\x02}q\x00.",
    ],
    ids=range(13),
)
def test_malformed_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoint.read_tensors(path)


# --- writing ----------------------------------------------------------------------------------------------------


def test_save_replaces_a_saved_model_and_refuses_anything_else(tmp_path, run, newest):
    model = denoiser()
    ab.save(model, tmp_path / "model")
    ab.save(denoiser(clip=None), tmp_path / "model")
    assert ab.load(tmp_path / "model").clip is None
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "empty").mkdir()
    for name in ("photos", "file", "run", "empty"):
        before = files(tmp_path)
        with pytest.raises(StorageError, match=name) as caught:
            ab.save(model, tmp_path / name)
        assert caught.value.exit_code == 5 and files(tmp_path) == before


def test_save_refuses_a_foreign_folder_that_happens_to_hold_a_model_json(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "model.json").write_text('{"format": "layers-model", "generatedBy": "keras"}')
    (tmp_path / "web" / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(StorageError):
        ab.save(denoiser(), tmp_path / "web")
    assert files(tmp_path) == before


def test_save_does_not_replace_a_step_of_a_run(run, newest):
    before = files(run)
    with pytest.raises(StorageError):
        ab.save(denoiser(), newest)
    assert files(run) == before, "the optimiser's state is gone"


@pytest.mark.parametrize("number", range(1, 12))
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, number):
    path = tmp_path / "model"
    ab.save(denoiser(), path)
    before, count = files(path), 0

    def wrap(real):
        def operation(*arguments):
            nonlocal count
            count += 1
            if count == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        return operation

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "sync_file", "sync_directory", "rename", "exchange"):
            patch.setattr(storage, name, wrap(getattr(storage, name)))
        try:
            ab.save(denoiser(clip=None), path)
        except StorageError as error:
            assert "no space left" in str(error)
        else:
            assert count < number
    loaded = ab.load(path)
    assert (loaded.clip is None) != (files(path) == before)
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_while_saving_a_step_leaves_the_older_steps(run, monkeypatch):
    state = trainer.build(config(), images(), device="cpu")
    trainer.resume(state, run / "step-000000006")
    before = files(run)

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(StorageError, match="no space left"):
        trainer.save(state, run / "step-000000007", {})
    assert files(run) == before


def test_half_written_and_foreign_folders_are_no_steps(run):
    for name in (".tmp-step-000000009-1", "step-9", "step-0000000009", "step-000000009.bak", "samples"):
        (run / name).mkdir()
    (run / "step-000000008").write_bytes(b"a file")
    assert [p.name for p in checkpoint.steps(run)] == ["step-000000006", "step-000000003"]


def test_a_pickle_in_place_of_weights_is_not_executed(newest, tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    torch.save({"first.weight": Evil()}, newest / "ema.safetensors")
    reseal(newest)
    with pytest.raises(CheckpointError):
        ab.load(newest)
    assert not marker.exists()
