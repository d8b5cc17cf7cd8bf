"""``alphabar evaluate`` and ``alphabar classifier``: numbers with their card, kept work, stops, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alphabar as ab
from alphabar.cli.evaluate import held_out_images
from alphabar.cli.main import main
from alphabar.cli.model import open_model
from alphabar.data.batch import Images
from alphabar.evaluation import kernel, sample_study, work
from alphabar.evaluation.dataset import fixed_subset
from alphabar.evaluation.features.classifier import classifier_folder, open_classifier
from alphabar.model.variance import VARIANCES
from oracles import linear_guess
from oracles import metrics as oracle
from tiny import SETTINGS, npz, pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of 4 steps on 40 labelled images, 8 held out."""
    root = tmp_path_factory.mktemp("evaluate")
    data = npz(root / "tiny.npz", labels=4)
    assert main(["train", str(data), "--out", str(root / "run"), "--steps", "4", *SETTINGS, "data.held_out=8"]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def classes(run) -> str:
    """A classifier of the same images."""
    assert main(["classifier", str(run.parent / "tiny.npz"), "--name", "ramps", "--epochs", "2"]) == 0
    return "ramps"


KID = ("--metrics", "kid", "--features", "pixels", "-n", "8")


def evaluate(run: Path, capsys, *more: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", *more]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return json.loads(out)


@pytest.fixture
def quick(monkeypatch):
    """Trials that take no second each, where nobody reads the estimate."""
    monkeypatch.setattr(work, "TRIAL_SECONDS", 0.01)


def refused(capsys, *arguments: str) -> tuple[int, str]:
    """The exit code and the one line of an error."""
    capsys.readouterr()
    code = main(list(arguments))
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return code, error


# --- every metric ------------------------------------------------------------------------------------------------


def test_every_metric_in_one_call(run, classes, capsys):
    found = evaluate(run, capsys, "--metrics", "bpd,fid,kid,is,pr,copies", "-n", "30", "--features", classes)
    assert found["fid"] >= 0 and found["kid_standard_error"] > 0 and 1 <= found["inception_score"] <= 4
    assert all(0 <= found[name] <= 1 for name in ("precision", "recall", "coverage", "copied_share"))
    assert found["copied"] == found["copied_share"] * 30 and found["bits_per_dim"] > 0
    card = found["card"]
    assert card["samples"]["n"] == 30 and card["samples"]["seeds"] == "0-29"
    assert card["samples"]["sampler"] == {"kind": "ancestral"} and card["samples"]["steps"] == "8 of 8"
    assert card["features"]["name"] == f"classifier {classes}" and card["features"]["sha256"]
    assert card["reference"]["n"] == 32 and card["held out"]["n"] == 8 and card["bound"]["n"] == 8
    assert card["versions"]["alphabar"] == ab.__version__ and card["model"]["step"] == 4
    assert card["seconds"]["estimated"] > 0


def test_the_distances_are_those_of_the_same_features(run, classes, capsys):
    """FID and KID of the command, from its samples and the classifier's features, by an independent oracle."""
    from alphabar.cli.evaluate import data_of_run

    found = evaluate(run, capsys, "--metrics", "fid,kid", "-n", "24", "--features", classes)
    denoiser = ab.load(run)
    samples = ab.generate(denoiser, ab.samplers.Ancestral(), ab.Chain.full(denoiser.schedule), range(24))
    net = open_classifier(classes)
    train, _ = data_of_run(run / "step-000000004")
    real = torch.from_numpy(np.array(train.pixels))
    a, b = (net(images).values.double().numpy() for images in (samples, real))
    assert found["fid"] == pytest.approx(oracle.frechet_of_features(a, b), rel=1e-4, abs=1e-6)
    assert found["kid"] == pytest.approx(oracle.squared_mmd(a, b), rel=1e-4, abs=1e-9)


def test_for_people_every_number_stands_beside_its_card(run, classes, capsys):
    capsys.readouterr()
    metrics = "bpd,fid,kid,is,pr,copies"
    assert main(["evaluate", str(run), "--metrics", metrics, "-n", "20", "--seed", "9", "--features", classes]) == 0
    out = capsys.readouterr().out
    words = ("KID", "FID", "biased upwards", "Inception Score", "precision", "look copied", "bits/dim")
    card = ("weights ema", "sha256", "seeds 0-19", "nearest of 256 levels", "fingerprint", "estimated", "resize")
    for word in (*words, *card, "plan", "about"):
        assert word in out, word
    assert out.index("KID  ") < out.index("FID  "), "with few samples the kernel distance leads"
    text = next((run / "evaluation").glob("*.txt")).read_text()
    assert "model" in text and "versions" in text


def test_what_real_images_are_to_each_other_is_computed_once(run, capsys, monkeypatch, tmp_path):
    """Of 50,000 of them a minute and more of the KID, whatever is compared with them."""
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    sizes = []
    inner = kernel.within
    monkeypatch.setattr(sample_study, "within", lambda x, groups: sizes.append(len(x)) or inner(x, groups))
    first = evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "20", "--steps", "3")
    evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "20", "--steps", "4")
    again = evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "20", "--steps", "3")
    assert sizes == [32]
    evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "5", "--steps", "3")
    assert sizes == [32, 32]  # five samples make five groups
    assert (again["kid"], again["kid_standard_error"]) == (first["kid"], first["kid_standard_error"])


def test_the_first_n_samples_are_shared(run, capsys, monkeypatch):
    """More samples go on from those there are; the same number needs none."""
    monkeypatch.setattr(work, "batch_size", lambda shape: 8)
    made = []
    monkeypatch.setattr(work.SampleWork, "_frames", _counting(work.SampleWork._frames, made))
    evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "16", "--steps", "5")
    trials = [rows for rows in made if rows.start == 0]
    assert {rows.start for rows in made} == {0, 8} and len(trials) == 2, "one timed trial, then each batch once"
    made.clear()
    evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "24", "--steps", "5")
    assert {rows.start for rows in made} == {16}
    made.clear()
    evaluate(run, capsys, "--metrics", "fid,pr,copies", "--features", "pixels", "-n", "24", "--steps", "5")
    assert not made


def _counting(frames, made):
    def counted(self, rows):
        made.append(rows)
        return frames(self, rows)

    return counted


def test_reference_features_are_kept(run, capsys, monkeypatch):
    """A second evaluation asks the network about samples only."""
    from alphabar.evaluation.features.random_conv import RandomConv

    seen = []
    before = RandomConv.__call__

    def counted(self, images):
        seen.append(len(images))
        return before(self, images)

    monkeypatch.setattr(RandomConv, "__call__", counted)
    evaluate(run, capsys, "--metrics", "fid", "--features", "random-conv", "-n", "16")
    assert 32 in seen
    seen.clear()
    evaluate(run, capsys, "--metrics", "fid", "--features", "random-conv", "-n", "16")
    assert sum(seen) <= 1, "only the probe of one image"
    evaluate(run, capsys, "--metrics", "fid", "--features", "random-conv", "-n", "16", "--weights", "raw")
    assert 32 not in seen, "other samples, the same reference"


def test_damaged_parts_are_made_again(run, capsys):
    arguments = ("--metrics", "fid", "--features", "pixels", "-n", "12", "--steps", "4")
    first = evaluate(run, capsys, *arguments)
    for part in (run / "evaluation" / "parts").rglob("*.part"):
        data = bytearray(part.read_bytes())
        data[-1] ^= 1
        part.write_bytes(data)
    assert evaluate(run, capsys, *arguments)["fid"] == first["fid"]


@pytest.mark.parametrize("reference", ["train", "held-out"])
def test_reference_sets(run, capsys, reference):
    found = evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "8", "--reference", reference)
    assert found["card"]["reference"]["n"] == {"train": 32, "held-out": 8}[reference]


def test_another_source_as_reference(run, capsys, tmp_path):
    other = npz(tmp_path / "other.npz", n=11)
    found = evaluate(run, capsys, "--metrics", "kid", "--features", "pixels", "-n", "8", "--reference", str(other))
    assert found["card"]["reference"]["n"] == 11


def test_a_saved_model_is_compared_with_a_source(run, capsys, tmp_path):
    ab.save(ab.load(run), tmp_path / "model")
    source = str(npz(tmp_path / "plain.npz"))
    found = evaluate(tmp_path / "model", capsys, "--metrics", "kid", "-n", "8", "--reference", source)
    assert found["card"]["features"]["name"] == "random-conv" and found["card"]["model"]["step"] is None
    code, error = refused(capsys, "evaluate", str(tmp_path / "model"), "--metrics", "kid")
    assert code == 2 and "--reference SOURCE" in error


def test_what_samples_are_made_with_does_not_reach_the_bound(run, capsys, tmp_path, quick):
    """The bound is of the model as it was trained, alone or beside metrics of samples, and is kept as that."""
    root = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    samples = ("--features", "pixels", "-n", "8", "denoiser.variance=fixed_small", "denoiser.clip=none")
    both = evaluate(root, capsys, "--metrics", "bpd,kid", *samples)
    shutil.rmtree(root / "evaluation")
    alone = evaluate(root, capsys, "--metrics", "bpd")
    assert both["bits_per_dim"] == alone["bits_per_dim"]
    trained = ab.load(root)
    assert alone["card"]["bound"]["variance"] == VARIANCES.name_of(trained.variance)
    assert alone["card"]["bound"]["clip"] == trained.clip.limit


def test_a_card_tells_chains_apart(run, capsys, quick):
    """Equal steps at other times are other samples."""
    cards, names = [], []
    for spacing in ("uniform", "quadratic"):
        found = evaluate(run, capsys, *KID, "--steps", "5", "--sampler", "ancestral", f"chain.spacing={spacing}")
        found["card"].pop("seconds")
        cards.append(found["card"])
        names.append(found["card"]["samples"]["spacing"])
    assert names == ["uniform", "quadratic"]
    cards[1]["samples"]["spacing"] = "uniform"
    assert cards[0] == cards[1], "nothing else differs"


def test_no_result_overwrites_another(run, capsys, tmp_path, quick):
    """Other metrics of the same samples, or samples at other times, are files of their own."""
    root = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    few = ("--steps", "5", "--sampler", "ancestral")
    asked = [("kid",), ("fid",), ("kid,fid",), ("kid", *few), ("kid", *few, "chain.spacing=quadratic")]
    for count, (metrics, *more) in enumerate(asked, 1):
        evaluate(root, capsys, "--metrics", metrics, "--features", "pixels", "-n", "8", *more)
        assert len(list((root / "evaluation").glob("*.json"))) == count
    evaluate(root, capsys, "--metrics", "fid,kid,fid", "--features", "pixels", "-n", "8")
    assert len(list((root / "evaluation").glob("*.json"))) == len(asked), "the same numbers in another order"


# --- stopping ----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished(run, tmp_path):
    """A real process, a real signal: the next call goes on from the parts that are there."""
    command = [sys.executable, "-c", "import sys; from alphabar.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    arguments = ["evaluate", str(run), "--metrics", "kid", "--features", "pixels", "-n", "200000", "--steps", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell lets what it runs in the background ignore Ctrl-C, and so do the children of that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    parts = run / "evaluation" / "parts"
    deadline = time.monotonic() + 60
    before = len(list(parts.rglob("samples-*/*.part")))
    while len(list(parts.rglob("samples-*/*.part"))) < before + 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on from them" in out
    kept = len(list(parts.rglob("samples-*/*.part")))
    arguments[arguments.index("200000")] = str(3 * 256)
    process = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert process.returncode == 0
    assert f"{3 * 256} samples" not in process.stdout, "nothing was left to sample"
    assert len(list(parts.rglob("samples-*/*.part"))) == kept


# --- bits/dim ----------------------------------------------------------------------------------------------------


def silent_model(path: Path, kind: str, T: int) -> ab.Denoiser:
    """A saved model whose network always answers 0."""
    import dataclasses

    from tiny import NET

    net = ab.UNet(**dataclasses.asdict(NET))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    denoiser = ab.Denoiser(
        net, ab.schedules.Linear(T=T).build(), shape=(1, 16, 16), prediction=ab.PREDICTIONS[kind](), clip=None,
        variance=ab.FixedSmall(),
    )  # fmt: skip
    ab.save(denoiser, path)
    return denoiser


def gaussian_pixels(path: Path, n: int, sigma: float) -> np.ndarray:
    """Images of independent Gaussian pixels, in [−1, 1] on 256 levels, also written to ``path``."""
    noise = np.random.default_rng(0).normal(0, sigma, (n, 1, 16, 16))
    levels = np.round((noise + 1) * 127.5).clip(0, 255).astype(np.uint8)
    np.savez(path, images=levels[:, 0])
    return levels / 127.5 - 1


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_the_command_measures_the_gaussian_toy(kind, tmp_path, capsys):
    """Closed form, by the command. x̂_0 = 0 leaves nothing to chance; x̂_0 = √ᾱ x_t leaves the noise of x_t."""
    denoiser = silent_model(tmp_path / "model", kind, T=12)
    x0 = gaussian_pixels(tmp_path / "gauss.npz", 300, 0.25)
    found = evaluate(tmp_path / "model", capsys, "--metrics", "bpd", "--data", str(tmp_path / "gauss.npz"))
    expected = linear_guess.bits_per_dim(x0, denoiser.schedule.alpha_bar.numpy(), slope=kind == "v")
    for name, value in expected.items():
        tolerance = 4 * found[f"{name}_standard_error"] if kind == "v" else 1e-5
        assert found[name] == pytest.approx(value, abs=max(tolerance, 1e-9)), name


def test_an_estimate_agrees_with_all_hops(tmp_path, capsys):
    """Within four of its own standard errors, from a fifth of the network calls."""
    silent_model(tmp_path / "model", "v", T=200)
    gaussian_pixels(tmp_path / "gauss.npz", 60, 0.25)
    arguments = ("--metrics", "bpd", "--data", str(tmp_path / "gauss.npz"))
    full = evaluate(tmp_path / "model", capsys, *arguments)
    some = evaluate(tmp_path / "model", capsys, *arguments, "--hops", "39")
    assert "bits_per_dim_draw_error" not in full
    error = some["bits_per_dim_draw_error"]
    assert 0 < error < 0.02
    assert abs(some["bits_per_dim"] - full["bits_per_dim"]) < 4 * error


def test_the_curve_over_t_is_written(run, capsys):
    found = evaluate(run, capsys, "--metrics", "bpd", "--seed", "3")
    curve = next(name for name in found["files"] if name.endswith("-curve.csv"))
    header, *rows = (run / "evaluation" / curve).read_text().splitlines()
    assert header.startswith("t,L_{t-1} (bits/dim)") and [row.split(",")[0] for row in rows] == list("87654321")
    table = np.array([[float(v) for v in row.split(",")] for row in rows])
    total = found["prior_bits_per_dim"] + table[:, 1].sum()
    assert total == pytest.approx(found["bits_per_dim"], rel=1e-9)
    assert table[-1, 3] == pytest.approx(found["bits_per_dim"] - found["decoder_bits_per_dim"], rel=1e-9)
    arrays = np.load(run / "evaluation" / next(name for name in found["files"] if name.endswith("-bound.npz")))
    assert arrays["bits_per_dim"].shape == (8,)
    assert arrays["bits_per_dim"].mean() == pytest.approx(found["bits_per_dim"], rel=1e-9)


def test_16_bit_images_have_no_bits_per_dim(run, tmp_path, capsys):
    folder = tmp_path / "deep"
    folder.mkdir()
    for i, image in enumerate(pixels(3)):
        Image.fromarray(image[0].astype(np.uint16) * 257).save(folder / f"{i}.png")
    code, error = refused(capsys, "evaluate", str(run), "--data", str(folder))
    assert code == 3 and "8 bits" in error and "256 levels" in error
    assert main(["evaluate", str(run), "--metrics", "kid", "-n", "8", "--reference", str(folder)]) == 0


def test_float_images_have_no_bits_per_dim(run, tmp_path, capsys):
    np.save(tmp_path / "floats.npy", np.zeros((4, 8, 8), np.float32))
    code, error = refused(capsys, "evaluate", str(run), "--data", str(tmp_path / "floats.npy"))
    assert code == 3 and "float32" in error


# --- other images ------------------------------------------------------------------------------------------------


def class_folder(root: Path, counts: dict[str, int]) -> str:
    """Images in a folder per class; all pixels of those of the class number i, in this order, are 10 i + 0 … 9."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8), 10 * number + i % 10, np.uint8)).save(root / name / f"{i}.png")
    return str(root)


def test_some_of_a_class_folder_are_of_every_class(run, capsys, tmp_path, quick):
    """Fewer images are a random part of more, always the same."""
    source = class_folder(tmp_path / "sorted", {"a": 30, "b": 30})
    seen = {}
    for n in ("8", "24"):
        found = evaluate(run, capsys, "--metrics", "bpd", "--data", source, "-n", n)
        assert found["card"]["bound"]["n"] == int(n)
        arrays = np.load(run / "evaluation" / next(name for name in found["files"] if name.endswith("-bound.npz")))
        seen[n] = arrays["bits_per_dim"]
    # the noise of an image is that of its row, so the first rows of both agree where the images do
    np.testing.assert_allclose(seen["8"], seen["24"][:8], rtol=1e-4)
    opened = open_model(run)
    images = held_out_images(opened.folder, source, opened.denoiser)
    some = {n: fixed_subset(images, n).pixels[:, 0, 0, 0] for n in (8, 24)}
    assert (some[8] == some[24][:8]).all()
    assert 0.3 < (some[24] < 10).mean() < 0.7
    assert fixed_subset(images, 60) is images and fixed_subset(images, None) is images


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """The run of a network with classes, trained on folders of cats, dogs and frogs."""
    root = tmp_path_factory.mktemp("animals")
    source = class_folder(root / "train", {"cat": 12, "dog": 12, "frog": 12})
    settings = [*SETTINGS, "net.num_classes=3", "data.held_out=6"]
    assert main(["train", source, "--out", str(root / "run"), "--steps", "2", *settings]) == 0
    return root / "run"


def opened_images(model: Path, source: str) -> Images:
    opened = open_model(model)
    return held_out_images(opened.folder, source, opened.denoiser)


def test_classes_of_other_images_are_known_by_name(animals, tmp_path, capsys, quick):
    """A dog is a dog, also where there is no cat before it."""
    source = class_folder(tmp_path / "test", {"dog": 3, "frog": 3})
    images = opened_images(animals, source)
    assert images.labels.tolist() == [1, 1, 1, 2, 2, 2] and images.class_names == ("cat", "dog", "frog")
    assert evaluate(animals, capsys, "--metrics", "bpd", "--data", source)["card"]["bound"]["n"] == 6
    code, error = refused(
        capsys, "evaluate", str(animals), "--data", class_folder(tmp_path / "four", {"ant": 2, "cat": 2})
    )
    assert code == 3 and "class ant" in error and "cat, dog, frog" in error


def test_classes_that_are_numbers_are_taken_as_they_are(animals, tmp_path, capsys, quick):
    """With a note; a number that the network does not know is refused. A saved model knows no names."""
    capsys.readouterr()
    images = opened_images(animals, str(npz(tmp_path / "numbers.npz", n=6, labels=3)))
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert "note" in capsys.readouterr().out
    code, error = refused(capsys, "evaluate", str(animals), "--data", str(npz(tmp_path / "four.npz", labels=4)))
    assert code == 3 and "class 3" in error and "0 … 2" in error
    assert opened_images(animals, class_folder(tmp_path / "12", {"1": 2, "2": 2})).labels.tolist() == [1, 1, 2, 2]
    ab.save(ab.load(animals), tmp_path / "model")
    source = class_folder(tmp_path / "named", {"cat": 2, "dog": 2})
    found = evaluate(tmp_path / "model", capsys, "--metrics", "bpd", "--data", source)
    assert found["card"]["bound"]["n"] == 4
    assert main(["evaluate", str(tmp_path / "model"), "--metrics", "bpd", "--data", source]) == 0
    assert "taken as they are" in capsys.readouterr().out


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--metrics", "fdi"), 2, "did you mean 'fid'"),
        (("--metrics", "is", "--features", "pixels"), 2, "classifier"),
        (("--metrics", "fid", "--features", "nothing"), 2, "alphabar classifier SOURCE"),
        (("--metrics", "fid", "--features", "inception"), 2, "pt_inception"),
        (("--metrics", "fid", "--reference", "nowhere"), 3, "no such file"),
        (("--metrics", "fid", "--reference", "digits", "--features", "no.module:f@w.safetensors"), 4, "w.safetensors"),
        (("--metrics", "fid", "-n", "0"), 2, "at least 1"),
        (("--metrics", "bpd", "--hops", "8"), 2, "1 … 7"),
        (("--metrics", "bpd", "--hops", "0"), 2, "1 … 7"),
        (("--metrics", "kid", "sampler.eta=1"), 2, "eta"),
        (("--metrics", "bpd", "--features", "nothing"), 2, "--features: only for fid, kid, is, pr, copies"),
        (("--metrics", "bpd", "--steps", "5", "sampler.eta=0"), 2, "--steps, settings: only for fid"),
        (("--metrics", "fid,kid", "--hops", "5"), 2, "--hops: only for bpd, got --metrics fid,kid"),
        (("--metrics", "bpd", "--reference", "nowhere"), 2, "--reference: only for fid, kid, pr, got --metrics bpd"),
        (("--metrics", "is,copies", "--reference", "train"), 2, "--reference: only for fid, kid, pr"),
        (("--metrics", "fid", "--seed", "0"), 2, "--seed: only for bpd, got --metrics fid"),
    ],
)
def test_wrong_requests_are_one_line(run, capsys, arguments, code, words):
    got, error = refused(capsys, "evaluate", str(run), *arguments)
    assert got == code and words in error, error


def test_a_single_sample_has_no_distance(run, capsys):
    code, error = refused(capsys, "evaluate", str(run), "--metrics", "kid", "--features", "pixels", "-n", "1", "--json")
    assert code == 3 and "2" in error


# --- classifier --------------------------------------------------------------------------------------------------


def test_a_classifier_says_how_good_it_is(run, capsys):
    capsys.readouterr()
    assert main(["classifier", str(run.parent / "tiny.npz"), "--name", "again", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out and "--features again" in out
    facts = open_classifier("again").facts
    assert facts.shape == (1, 8, 8) and facts.images == 36 and 0 <= facts.accuracy <= 1


def test_a_classifier_learns_the_digits():
    assert main(["classifier", "digits", "--name", "few", "--epochs", "12"]) == 0
    assert open_classifier("few").facts.accuracy > 0.9


def test_a_damaged_classifier_is_refused_by_name_and_passed_over_without(run, classes, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    assert main(["classifier", str(run.parent / "tiny.npz"), "--name", "broken", "--epochs", "1"]) == 0
    file = classifier_folder("broken") / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, error = refused(capsys, "evaluate", str(run), "--metrics", "is", "-n", "8", "--features", "broken")
    assert code == 4 and "SHA-256" in error
    capsys.readouterr()
    assert main(["evaluate", str(run), "--metrics", "kid", "-n", "8"]) == 0
    out = capsys.readouterr().out
    assert "random" in out and "classifier broken is passed over" in out


def test_a_classifier_of_other_images_of_that_name_is_passed_over(tmp_path, capsys, monkeypatch, quick):
    """Without --features it is a classifier of the very images of the run, not one of any train.npz."""
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    for place, classes in (("here", 2), ("there", 4)):
        (tmp_path / place).mkdir()
        npz(tmp_path / place / "train.npz", labels=classes)
    run, source = tmp_path / "run", str(tmp_path / "here" / "train.npz")
    assert main(["train", source, "--out", str(run), "--steps", "1", *SETTINGS, "data.held_out=8"]) == 0
    kid = ("--metrics", "kid", "-n", "8")
    for place, expected in (("there", "random-conv"), ("here", "classifier here")):
        made = main(["classifier", str(tmp_path / place / "train.npz"), "--name", place, "--epochs", "1"])
        assert made == 0
        assert evaluate(run, capsys, *kid)["card"]["features"]["name"] == expected
    assert evaluate(run, capsys, *kid, "--reference", source)["card"]["features"]["name"] == "classifier here"


def test_classifiers_need_classes(run, tmp_path, capsys):
    code, error = refused(capsys, "classifier", str(npz(tmp_path / "plain.npz")))
    assert code == 3 and "classes" in error
    code, error = refused(capsys, "classifier", "digits", "--name", "../up")
    assert code == 2 and "--name" in error


def test_other_images_are_read_as_those_of_the_run(tmp_path, capsys):
    """Black and white mean for --data what they meant in training, however bright the other images are."""
    for name, brightest in (("trained", 4000), ("others", 1000)):
        (tmp_path / name).mkdir()
        for i in range(12):
            ramp = np.linspace(0, brightest, 64).reshape(8, 8).astype(np.uint16) + i
            Image.fromarray(ramp).save(tmp_path / name / f"{i}.png")
    run = tmp_path / "run"
    settings = [*SETTINGS, "data.value_range=[0, 4096]", "data.background=3"]
    assert main(["train", str(tmp_path / "trained"), "--out", str(run), "--steps", "1", *settings]) == 0
    capsys.readouterr()
    opened = open_model(run)
    images = held_out_images(opened.folder, str(tmp_path / "others"), opened.denoiser)
    assert images.gather(np.arange(12)).x.max() == round(1011 / 4096 * 255)
