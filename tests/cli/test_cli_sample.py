"""sample, evaluate, inspect, equations and --help, on one tiny trained run."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphabar as ab
from alphabar.base import storage
from alphabar.cli.main import main
from alphabar.cli.sample import prepare
from alphabar.samplers import SAMPLERS
from alphabar.weights import checkpoint
from tiny import SETTINGS, files, npz

SOURCE = Path(ab.__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of 6 steps at a high rate, so that raw and averaged weights differ."""
    root = tmp_path_factory.mktemp("sampling")
    data = npz(root / "tiny.npz")
    settings = [*SETTINGS, "optim.lr=0.01", "ema.halflife_images=64", "run.save_every=3", "data.held_out=8"]
    assert main(["train", str(data), "--out", str(root / "run"), "--steps", "6", *settings]) == 0
    return root / "run"


def sample(run: Path, out: Path, *more: str) -> dict[str, bytes]:
    assert main(["sample", str(run), "--out", str(out), *more]) == 0
    return files(out)


def test_sample_writes_images_a_grid_and_a_manifest(run, tmp_path):
    found = sample(run, tmp_path / "out", "-n", "3")
    assert set(found) == {"00000.png", "00001.png", "00002.png", "grid.png", "manifest.json"}
    for i in range(3):
        with Image.open(tmp_path / "out" / f"{i:05d}.png") as image:
            assert (image.size, image.mode) == ((8, 8), "L")
    manifest = json.loads(found["manifest.json"])
    assert manifest["seeds"] == [0, 1, 2] and manifest["weights"] == "ema"
    assert manifest["times"] == [8, 7, 6, 5, 4, 3, 2, 1, 0] and manifest["sampler"] == {"kind": "ancestral"}
    step = run / "step-000000006"
    assert manifest["weights_sha256"] == storage.sha256(step / "ema.safetensors")


def test_the_images_are_those_of_the_library(run, tmp_path):
    found = sample(run, tmp_path / "out", "--seeds", "5-6")
    denoiser = ab.load(run)
    expected = ab.generate(denoiser, ab.samplers.Ancestral(), ab.Chain.full(denoiser.schedule), [5, 6])
    for i in range(2):
        with Image.open(tmp_path / "out" / f"{i:05d}.png") as image:
            assert np.array_equal(np.asarray(image), expected[i, 0].numpy())
    assert len(found) == 4


def test_an_image_depends_on_its_seed_alone(run, tmp_path, monkeypatch):
    three = sample(run, tmp_path / "three", "-n", "3")
    alone = sample(run, tmp_path / "alone", "--seeds", "2-2")
    single = sample(run, tmp_path / "single", "--seeds", "2")
    monkeypatch.setattr("alphabar.cli.sample.BATCH", 2)
    batched = sample(run, tmp_path / "batched", "-n", "5")
    assert alone["00000.png"] == single["00000.png"] == three["00002.png"] == batched["00002.png"]
    assert [batched[f"0000{i}.png"] for i in range(3)] == [three[f"0000{i}.png"] for i in range(3)]
    assert len({batched[f"0000{i}.png"] for i in range(5)}) == 5


def test_the_same_command_writes_the_same_bytes(run, tmp_path):
    more = ("-n", "2", "--sampler", "ddim", "--steps", "4")
    assert sample(run, tmp_path / "a", *more) == sample(run, tmp_path / "b", *more)


def test_fewer_images_into_the_same_folder_leave_no_old_ones(run, tmp_path):
    sample(run, tmp_path / "out", "-n", "4")
    assert set(sample(run, tmp_path / "out", "-n", "2")) == {"00000.png", "00001.png", "grid.png", "manifest.json"}


def test_animate_adds_the_way_there(run, tmp_path):
    found = sample(run, tmp_path / "out", "-n", "2", "--animate")
    assert set(found) >= {"denoising.gif", "denoising.webp"}
    for name in ("denoising.gif", "denoising.webp"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.n_frames == 8 and image.format in ("GIF", "WEBP")
    with Image.open(tmp_path / "out" / "denoising.webp") as image:
        image.seek(7)
        end = np.asarray(image.convert("L"))
    with Image.open(tmp_path / "out" / "00000.png") as last:
        factor = 48 // 8
        assert np.array_equal(end[2 : 2 + 48 : factor, 2 : 2 + 48 : factor], np.asarray(last))
    plain = sample(run, tmp_path / "plain", "-n", "2")
    assert all(found[name] == data for name, data in plain.items())


def test_raw_weights_are_other_weights(run, tmp_path):
    ema, raw = sample(run, tmp_path / "ema", "-n", "2"), sample(run, tmp_path / "raw", "-n", "2", "--weights", "raw")
    assert ema["00000.png"] != raw["00000.png"]
    assert json.loads(raw["manifest.json"])["weights"] == "raw"
    net = storage.sha256(run / "step-000000006" / "net.safetensors")
    assert json.loads(raw["manifest.json"])["weights_sha256"] == net


def test_samplers_steps_and_conventions_matter(run, tmp_path):
    kinds = {
        "plain": [],
        "ddim": ["--sampler", "ddim"],
        "eta": ["--sampler", "ddim", "sampler.eta=1.0"],
        "few": ["--steps", "3"],
        "large": ["denoiser.variance=fixed_large"],
        "tight": ["denoiser.clip=0.1"],
        "older": [],
    }
    found = {}
    for name, more in kinds.items():
        source = run / "step-000000003" if name == "older" else run
        found[name] = sample(source, tmp_path / name, "-n", "1", *more)["00000.png"]
    assert len({v for k, v in found.items() if k != "eta"}) == len(kinds) - 1
    assert found["eta"] != found["ddim"]


@pytest.mark.parametrize(
    ("sampler", "steps", "expected"),
    [
        (None, None, (ab.samplers.Ancestral, 100)),
        (None, 7, (ab.samplers.SDEDPMSolverPP2M, 7)),
        (None, 99, (ab.samplers.SDEDPMSolverPP2M, 99)),
        (None, 100, (ab.samplers.Ancestral, 100)),
        (None, 200, (ab.samplers.Ancestral, 200)),
        ("ancestral", 7, (ab.samplers.Ancestral, 7)),
        ("heun", None, (ab.samplers.Heun, 100)),
        ("dpmpp_2m_sde", 200, (ab.samplers.SDEDPMSolverPP2M, 200)),
    ],
)
@pytest.mark.parametrize("variance", [ab.FixedSmall(), ab.Learned()], ids=["fixed", "learned"])
def test_what_samples_unless_it_is_said(sampler, steps, expected, variance):
    """Algorithm 2 in 100 steps or more, SDE-DPM-Solver++ below."""
    schedule = ab.schedules.Linear(T=200).build()
    denoiser = ab.Denoiser(lambda x, t: x, schedule, shape=(1, 2, 2), variance=variance)
    rule, chain, _ = prepare(denoiser, sampler, steps)
    if (sampler, steps, variance) == (None, None, ab.Learned()):
        expected = (ab.samplers.Ancestral, 200)  # it was learned for single steps
    assert (type(rule), len(chain)) == expected


@pytest.mark.parametrize(
    ("shape", "T", "settings", "sampler", "expected"),
    [
        ((1, 16, 16), 200, [], None, (ab.samplers.Ancestral, 100)),
        ((3, 2, 17), 200, [], None, (ab.samplers.SDEDPMSolverPP2M, 25)),
        ((3, 32, 32), 60, [], None, (ab.samplers.SDEDPMSolverPP2M, 25)),
        ((3, 32, 32), 25, [], None, (ab.samplers.Ancestral, 25)),
        ((3, 32, 32), 200, [], "ddim", (ab.samplers.DDIM, 100)),
        ((3, 32, 32), 200, ["denoiser.variance=fixed_large"], None, (ab.samplers.Ancestral, 100)),
    ],
)
def test_larger_images_take_fewer_steps_unless_a_sampler_is_named(shape, T, settings, sampler, expected):
    denoiser = ab.Denoiser(lambda x, t: x, ab.schedules.Linear(T=T).build(), shape=shape)
    rule, chain, _ = prepare(denoiser, sampler, None, settings)
    assert (type(rule), len(chain)) == expected


def test_a_learned_variance_is_walked_whole_at_any_size():
    denoiser = ab.Denoiser(lambda x, t: x, ab.schedules.Linear(T=200).build(), shape=(3, 32, 32), variance=ab.Learned())
    rule, chain, _ = prepare(denoiser, None, None)
    assert type(rule) is ab.samplers.Ancestral and len(chain) == 200


@pytest.mark.parametrize(
    ("shape", "steps", "settings", "spacing"),
    [
        ((3, 32, 32), None, [], "logsnr"),
        ((3, 17, 8), 99, [], "logsnr"),
        ((3, 32, 32), 100, [], "uniform"),
        ((1, 16, 16), 10, [], "uniform"),
        ((3, 32, 32), 10, ["chain.spacing=trailing"], "trailing"),
        ((1, 16, 16), 10, ["chain.spacing=logsnr"], "logsnr"),
    ],
)
@pytest.mark.parametrize("sampler", [None, "dpmpp_2m", "dpmpp_2m_sde", "heun"])
def test_few_steps_of_larger_images_are_even_in_the_signal_to_noise_ratio(shape, steps, settings, spacing, sampler):
    schedule = ab.schedules.Cosine(T=400).build()
    denoiser = ab.Denoiser(ab.UNet(), schedule, prediction=ab.V(), variance=ab.FixedSmall(), shape=shape)
    if sampler is not None and steps is None:
        steps = 25
    _, chain, _ = prepare(denoiser, sampler, steps, settings)
    assert chain.times == ab.Chain.spaced(schedule, steps or 25, spacing).times


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "plms", "predictor_corrector"])
def test_rules_that_do_not_expand_in_it_stay_even_in_time(sampler):
    schedule = ab.schedules.Cosine(T=400).build()
    denoiser = ab.Denoiser(ab.UNet(), schedule, prediction=ab.V(), variance=ab.FixedSmall(), shape=(3, 32, 32))
    assert prepare(denoiser, sampler, 10)[1].times == ab.Chain.spaced(schedule, 10).times


def test_who_names_a_variance_gets_a_sampler_that_has_one():
    denoiser = ab.Denoiser(lambda x, t: x, ab.schedules.Linear(T=200).build(), shape=(1, 2, 2))
    rule, chain, large = prepare(denoiser, None, 20, ["denoiser.variance=fixed_large"])
    assert type(rule) is ab.samplers.Ancestral and isinstance(large.variance, ab.FixedLarge) and len(chain) == 20


def test_what_is_asked_for_sampling_does_not_reach_the_model():
    """Its bound, measured afterwards, is that of the model as it was trained."""
    denoiser = ab.Denoiser(
        lambda x, t: x, ab.schedules.Linear(T=200).build(), shape=(1, 2, 2), variance=ab.FixedLarge()
    )
    _, _, spaced = prepare(denoiser, "ancestral", 20, ["denoiser.clip=none"], quiet=True)
    assert isinstance(spaced.variance, ab.FixedSmall) and spaced.clip is None
    assert isinstance(denoiser.variance, ab.FixedLarge) and denoiser.clip == ab.Clip(1.0)


def test_a_schedule_of_few_steps_is_walked_whole():
    denoiser = ab.Denoiser(lambda x, t: x, ab.schedules.Linear(T=30).build(), shape=(1, 2, 2))
    rule, chain, _ = prepare(denoiser, None, None)
    assert type(rule) is ab.samplers.Ancestral and len(chain) == 30


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_every_sampler_by_name(run, tmp_path, capsys, name):
    """The same images as by the library, and how often the network was asked where that is not the number of steps."""
    found = sample(run, tmp_path / "out", "-n", "2", "--sampler", name, "--steps", "4")
    said = capsys.readouterr().out
    manifest = json.loads(found["manifest.json"])
    assert manifest["sampler"]["kind"] == name and len(manifest["times"]) == 5
    denoiser, sampler = ab.load(run), ab.SAMPLERS[name]()
    chain = ab.Chain.spaced(denoiser.schedule, 4)
    expected = ab.generate(denoiser, sampler, chain, [0, 1])
    for i in range(2):
        with Image.open(tmp_path / "out" / f"{i:05d}.png") as image:
            assert np.array_equal(np.asarray(image), expected[i, 0].numpy())
    calls = ab.samplers.network_calls(sampler, chain)
    assert ("4 steps)" in said) is (calls == 4) and (f"4 steps, {calls} network calls)" in said) is (calls != 4)


@pytest.mark.parametrize("name", ab.SAMPLERS)
def test_large_variances_are_replaced_on_long_hops_where_they_matter(run, tmp_path, capsys, name):
    denoiser = ab.load(run)
    denoiser.variance = ab.FixedLarge()
    ab.save(denoiser, tmp_path / "model")
    for steps, long in (("4", True), ("8", False)):
        capsys.readouterr()
        out = tmp_path / steps
        found = sample(tmp_path / "model", out, "-n", "1", "--sampler", name, "--steps", steps)
        replaced = long and ab.SAMPLERS[name].needs_variance
        assert ("using beta-tilde" in capsys.readouterr().out) is replaced
        manifest = json.loads(found["manifest.json"])
        assert manifest["variance"] == ("fixed_small" if replaced else "fixed_large")


def test_settings_of_a_sampler(run, tmp_path):
    more = ("-n", "1", "--sampler", "predictor_corrector")
    plain = sample(run, tmp_path / "plain", *more)
    strong = sample(run, tmp_path / "strong", *more, "sampler.snr=0.5", "sampler.corrector_steps=2")
    assert json.loads(strong["manifest.json"])["sampler"]["corrector_steps"] == 2
    assert plain["00000.png"] != strong["00000.png"]


def test_without_out_samples_go_below_the_run_and_the_run_still_loads(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for source in (copy, copy / "step-000000003"):
        for _ in range(2):
            assert main(["sample", str(source), "-n", "1"]) == 0
    assert len(list((copy / "samples").iterdir())) == 2
    for step in checkpoint.steps(copy):
        checkpoint.verify(step)


def test_sampling_a_saved_model_does_not_spoil_it(run, tmp_path):
    """What is written by default must not end up inside the folder that the manifest guards."""
    ab.save(ab.load(run), tmp_path / "model")
    for _ in range(2):
        assert main(["sample", str(tmp_path / "model"), "-n", "1"]) == 0
    ab.load(tmp_path / "model")


def test_sampling_from_inside_a_step_does_not_spoil_it(run, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.chdir(copy / "step-000000006")
    assert main(["sample", ".", "-n", "1"]) == 0
    checkpoint.verify(copy / "step-000000006")


def test_evaluating_a_saved_model_does_not_spoil_it(run, tmp_path):
    ab.save(ab.load(run), tmp_path / "model")
    data = str(run.parent / "tiny.npz")
    for _ in range(2):
        assert main(["evaluate", str(tmp_path / "model"), "--data", data, "-n", "2"]) == 0
    ab.load(tmp_path / "model")


def test_sampling_goes_on_after_a_full_disk(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", full)
        assert main(["sample", str(run), "-n", "2", "--out", str(out)]) == 5
    assert "no space left" in capsys.readouterr().err
    assert main(["sample", str(run), "-n", "2", "--out", str(out)]) == 0, "the same command is refused ever after"


# --- evaluate ---------------------------------------------------------------------------------------------------


def evaluate(run: Path, capsys, *more: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--metrics", "bpd", "--json", *more]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return json.loads(out)


PARTS = ("prior_bits_per_dim", "terms_bits_per_dim", "decoder_bits_per_dim")


def test_evaluate_gives_the_bound_in_parts_that_add_up(run, capsys):
    found = evaluate(run, capsys)
    assert math.isfinite(found["bits_per_dim"]) and found["bits_per_dim"] > 0
    assert found["bits_per_dim"] == pytest.approx(sum(found[part] for part in PARTS), rel=1e-9)
    assert all(found[part] >= 0 for part in PARTS)
    assert all(found[f"{part}_standard_error"] >= 0 for part in ("bits_per_dim", *PARTS))
    bound, model = found["card"]["bound"], found["card"]["model"]
    assert bound["n"] == 8 and bound["seed"] == 0 and "8" in bound["chain"]
    assert model["weights"] == "ema" and model["step"] == 6
    assert model["sha256"] == storage.sha256(run / "step-000000006" / "ema.safetensors")
    again = evaluate(run, capsys)
    assert found["card"].pop("seconds")["actual"] > again["card"].pop("seconds")["actual"] == 0, "it was measured twice"
    assert again == found, "the same command gives the same number"


def test_evaluate_weights_seeds_and_counts_matter(run, capsys):
    ema = evaluate(run, capsys)
    assert evaluate(run, capsys, "--weights", "raw")["bits_per_dim"] != ema["bits_per_dim"]
    assert evaluate(run, capsys, "--seed", "1")["bits_per_dim"] != ema["bits_per_dim"]
    one = evaluate(run, capsys, "-n", "1")
    assert one["card"]["bound"]["n"] == 1 and one["bits_per_dim_standard_error"] is None
    assert evaluate(run, capsys, "-n", "1000")["card"]["bound"]["n"] == 8


def test_evaluate_of_few_hops_estimates_the_same_number(run, capsys):
    whole = evaluate(run, capsys)
    for hops in (1, 3, 7):
        found = evaluate(run, capsys, "--hops", str(hops))
        drawn = re.match(r"(\d+) importance-sampled hops and (\d+) draws of L_0", found["card"]["bound"]["chain"])
        assert drawn and int(drawn[1]) + int(drawn[2]) == hops + 1
        assert found["bits_per_dim"] == pytest.approx(sum(found[part] for part in PARTS), rel=1e-9)
        assert found["prior_bits_per_dim"] == pytest.approx(whole["prior_bits_per_dim"])
    # as many hops as there are, with other noise
    assert found["terms_bits_per_dim"] == pytest.approx(whole["terms_bits_per_dim"], rel=0.4)


def test_evaluate_uses_the_images_that_were_held_out(run, capsys):
    from alphabar.data.batch import split
    from alphabar.data.sources import open_source

    _, held_out = split(open_source(str(run.parent / "tiny.npz")), 0, 8)
    assert evaluate(run, capsys)["card"]["bound"]["fingerprint"] == held_out.fingerprint


def test_evaluate_for_people(run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(run), "-n", "4"]) == 0
    out = capsys.readouterr().out
    assert "bits/dim" in out and "L_T" in out and "L_0" in out and "±" in out


def test_evaluate_takes_other_images(run, capsys):
    found = evaluate(run, capsys, "--data", str(run.parent / "tiny.npz"), "-n", "3")
    assert found["card"]["bound"]["n"] == 3


# --- inspect, equations, help -----------------------------------------------------------------------------------


def test_inspect_says_what_it_is(run, capsys):
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    out = capsys.readouterr().out
    numbers = sum(p.numel() for p in ab.load(run).parameters())
    for word in ("step-000000006", "ema, net", f"{numbers:,} parameters", "1 x 8 x 8", "GFLOP", "T = 8", "6 steps"):
        assert word in out, out


def listed(tags: list[str], kind: str) -> set[int]:
    """The numbers in tags such as ``Eqs. 6–7`` or ``Algorithm 1, lines 2–5``."""
    found: set[int] = set()
    for tag in tags:
        match = re.match(rf"{kind}s?\.? ([\d–, and]+)", tag)
        for part in re.findall(r"\d+(?:–\d+)?", match[1]) if match else []:
            first, _, last = part.partition("–")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def test_equations_lists_all_and_every_place_is_a_definition(capsys):
    capsys.readouterr()
    assert main(["equations"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert listed(lines, "Eq") >= set(range(1, 16)), "these equations have no place"
    assert listed(lines, "Algorithm") >= {1, 2}
    for line in lines:
        match = re.search(r" {2}(\S+) +(alphabar/\S+\.py):(\d+) {2,}\S", line)
        assert match, line
        name, file, number = match.groups()
        text = (SOURCE / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]
        assert re.match(rf"\s*(def|class) {name.rpartition('.')[2]}\b", text), line


def test_equations_as_markdown_is_a_table_with_links(capsys):
    capsys.readouterr()
    assert main(["equations", "--markdown"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| Eq")]
    assert rows and all(re.search(r"\]\(\.\./src/alphabar/\S+\.py#L\d+\)", row) for row in rows)
    assert len({len(re.split(r"(?<!\\)\|", row)) for row in rows}) == 1


def python(*arguments: str) -> tuple[str, float]:
    """(stdout, seconds of processor time, so that a busy machine does not count) of the fastest of three."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout, min(times)


def test_help_is_quick_and_loads_no_torch():
    out, seconds = python("-m", "alphabar", "--help")
    assert "train" in out and "sample" in out and "evaluate" in out
    assert seconds < 0.3
    code = "import sys\nfrom alphabar.cli.main import main\nmain(['--help'])\nmain(['train', '--help'])\n"
    code += "print(); print(sorted({'torch', 'numpy', 'PIL', 'safetensors'} & set(sys.modules)))"
    assert python("-c", code)[0].endswith("[]\n")


def test_version():
    assert python("-m", "alphabar", "--version")[0] == f"alphabar {ab.__version__}\n"


HEAVY = "{'matplotlib', 'wandb', 'scipy', 'sklearn', 'datasets', 'fastapi', 'torchvision', 'typer', 'rich'}"


def test_importing_alphabar_is_quick():
    out, seconds = python("-c", f"import sys, alphabar; print({HEAVY} & set(sys.modules))")
    assert out == "set()\n" and seconds < 2


def test_no_public_name_loads_an_optional_package():
    code = f"import sys\nfrom alphabar import *\nprint({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_every_option_has_help():
    tree = ast.parse((SOURCE / "alphabar/cli/main.py").read_text(encoding="utf-8"))
    options = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "typer.Option"]
    assert len(options) > 20
    for option in options:
        assert any(k.arg == "help" for k in option.keywords), ast.unparse(option)


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_help_names_every_sampler(command: str, capsys) -> None:
    """The help is written by hand: to ask the registry would import torch before the first word."""
    assert main([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(re.search(rf"\b{name}\b", said) for name in SAMPLERS)
    *others, last = [name for name, rule in SAMPLERS.items() if rule.few_steps == "logsnr"]
    assert f"logsnr below 100 steps of {', '.join(others)} or {last} " in said
