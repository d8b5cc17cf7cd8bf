"""The pieces of ``make bench``, without peers: its laws, its tables, and its workers with a tiny network of ours."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not SCRIPTS.is_dir():
    pytest.skip("an installed package has no scripts", allow_module_level=True)
sys.path.insert(0, str(SCRIPTS))

import bench_gpu  # noqa: E402
from bench import found_before  # noqa: E402
from benchmark import ceiling, operators, scaling, tables  # noqa: E402
from benchmark.contestants import CONTESTANTS, stand_in  # noqa: E402
from benchmark.race import Timed, Worker, median_ratio, race  # noqa: E402
from benchmark.spec import Spec  # noqa: E402
from benchmark.worker import serve  # noqa: E402

TINY = {
    "base_channels": 8,
    "base_channels_multiples": [1, 2],
    "apply_attention": [False, False],
    "num_res_blocks": 1,
    "norm_groups": 4,
}
OURS = Spec("alphabar", "cifar10", batch=2, size=8, net=TINY, hops=3)


def test_a_power_law_has_the_slope_of_its_exponent() -> None:
    sizes = [1, 2, 4, 8]
    assert scaling.slope(sizes, [3 * n**1.7 for n in sizes]) == pytest.approx(1.7)
    # a fixed cost flattens the whole, and the largest sizes least
    fixed = [100 + n**2 for n in sizes]
    assert scaling.slope(sizes, fixed) < scaling.top_slope(sizes, fixed) < 2


def test_the_median_ratio_is_formed_within_rounds() -> None:
    """A machine that slows down by ten between the rounds changes no ratio."""
    ours = Timed(OURS, 1, {"step": [1.0, 10.0, 1.0]})
    theirs = Timed(OURS, 1, {"step": [2.0, 20.0, 2.0]})
    assert median_ratio(theirs, ours, "step") == 2.0


def test_the_work_of_a_convolution_as_torch_counts_it() -> None:
    """The network is linear in its work: each further image is as much, and the optimiser is no part of it."""
    net = TINY | {"input_channels": 1, "output_channels": 1, "patch_size": 1}
    # by Adam, and by Muon, whose own products are far more than those of an image
    for spec in (Spec("alphabar", size=8, net=TINY), Spec("alphabar", "digits", size=8, net=net)):
        one = ceiling.work(spec)
        two, three = (ceiling.counted(replace(spec, batch=batch)) for batch in (2, 3))
        assert {action: three[action] - two[action] for action in one} == one
        # backward: one product for the gradient of the input, one for the weights; the first layer needs only the
        # latter; in a step every image has a time of its own to embed
        own_time = forward_of_times(spec, 2) - forward_of_times(spec, 1)
        assert one["forward"] < own_time and 2.5 * own_time < one["step"] < 3 * own_time


def forward_of_times(spec: Spec, batch: int) -> float:
    """FLOPs of a forward pass of ``batch`` images, each at a time of its own."""
    spec = replace(spec, batch=batch)
    net = CONTESTANTS["alphabar"](spec).net
    with FlopCounterMode(display=False) as counter:
        net(spec.images(), spec.times())
    return counter.get_total_flops()


def test_workers_take_turns_and_answer() -> None:
    with Worker(OURS) as ours, Worker(Spec("naive", batch=2, size=8, net=TINY)) as plain:
        notes: list[str] = []
        timed = race([ours, plain], {"forward": 2, "step": 1}, notes, seconds=0, least=2)
        assert not notes
        assert ours.seconds("sample")[0] > 0
        peak = ours.peak
        assert race([ours], {"fly": 1}, notes, seconds=0, least=1) == []
        assert notes == ["alphabar: KeyError: 'fly'"]
    assert ours.process.poll() == 0
    assert [len(one.rounds[action]) for one in timed for action in ("forward", "step")] == [2, 2, 2, 2]
    assert all(seconds > 0 for one in timed for action in one.rounds.values() for seconds in action)
    assert timed[0].parameters == timed[1].parameters > 10_000
    assert 50e6 < peak < 2e9
    page = "\n".join(
        [
            *tables.beside_peers(timed, OURS),
            *tables.beside_plain([timed]),
            *tables.shares(timed, {"cifar10": {"forward": 1e6, "step": 3e6}}, {"fp32": 1e9}),
            *tables.memory({"alphabar": {"forward": 1e6, "step": 2e6}}),
            *tables.not_measured(["x: could not be cloned"]),
        ]
    )
    assert re.search(r"\| alphabar \| 0\.\d+ M \| [\d.]+ \| 1\.00 \| [\d.]+ \| 1\.00 \|", page)
    for block in re.findall(r"(?:^\|.*\n)+", page, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_the_fastest_setting_of_a_peer_is_that_of_the_race() -> None:
    shipped = Spec("diffusers")
    timed = [
        Timed(OURS, 1_000, {"forward": [1.0, 2.0], "step": [4.0, 4.0]}),
        Timed(shipped, 1_000, {"forward": [1.2, 2.4], "step": [8.0, 8.0]}),
        Timed(replace(shipped, settings=("channels_last",)), 1_000, {"forward": [1.4, 2.8], "step": [6.0, 6.0]}),
    ]
    page = tables.beside_peers(timed, OURS)
    assert "| diffusers | 1.20 (as it ships) | 1.50 (channels_last) |" in page
    assert not any("not-installed" in line for line in page)


def test_a_contestant_that_cannot_be_built_says_why() -> None:
    out = io.StringIO()
    serve(Spec("alphabar", batch=2, size=8, net={**TINY, "norm_groups": 3}).to_json(), [], out)
    assert json.loads(out.getvalue())["error"].startswith("ConfigError: net: width 8 is not divisible")


def test_the_plot_of_laws(tmp_path: Path) -> None:
    law = {
        "action": "step",
        "values": [1, 2, 4],
        **{key: [1.0, 2.0, 4.0] for key in ("seconds", "bytes", "flops")},
        **{key: {"seconds": 1.0, "bytes": 1.0, "flops": 1.0} for key in ("exponent", "exponent_of_the_largest")},
        "outgrows": ["bytes"],
    }
    pytest.importorskip("matplotlib")
    two = {**law, **{key: law[key][:2] for key in ("values", "seconds", "bytes", "flops")}}
    scaling.plot({"batch": law, "channels": two}, tmp_path / "laws.png")
    assert (tmp_path / "laws.png").read_bytes().startswith(b"\x89PNG")
    assert any(line.endswith("| memory |") for line in scaling.rows({"batch": law}))


def test_empty_modules_stand_in_for_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    stand_in("no_such_package")
    from no_such_package import transforms
    from no_such_package.deep.inside import anything

    assert isinstance(transforms, type) and isinstance(anything, type)


def test_the_fastest_settings_of_the_last_time(tmp_path: Path) -> None:
    shipped = replace(OURS, contestant="diffusers", settings=())
    assert found_before(shipped, tmp_path) == {}
    last = {"parts": {"peers": {"fastest": {"diffusers": {"forward": ["channels_last"], "step": []}}}}}
    (tmp_path / "bench.json").write_text(json.dumps(last))
    assert found_before(shipped, tmp_path) == {
        "forward": replace(shipped, settings=("channels_last",)),
        "step": shipped,
    }
    assert found_before(replace(shipped, contestant="guided-diffusion"), tmp_path) == {}


def test_both_forms_of_an_operator_are_timed() -> None:
    convolutions = operators.convolutions(((1, 8, 8, 8), (2, 8, 16, 4)), rounds=1)
    norms = operators.norms(((3, 16, 2, 4),), rounds=1)
    assert [row["shape"] for row in [*convolutions, *norms]] == [(1, 8, 8, 8), (2, 8, 16, 4), (3, 16, 2, 4)]
    # too few channels for the sums to pay, whatever the processor
    assert {row[action]["chosen"] for row in convolutions for action in ("forward", "step")} == {"direct"}
    page = "\n".join(tables.operators(convolutions, norms))
    assert re.search(r"\| 2, 8 → 16, 4×4 \| \*\*[\d.e-]+\*\* \| [\d.e–-]+ \| \*\*[\d.e-]+\*\* \| [\d.e–-]+ \|", page)
    assert re.search(
        r"\| 3, 16 in 2 groups, 4×4 \| [\d.e-]+ \| \*\*[\d.e-]+\*\* \| [\d.e-]+ \| \*\*[\d.e-]+\*\* \|", page
    )


def test_the_goals_on_a_gpu_are_held_against_ratios_within_rounds() -> None:
    """Medians of each alone would say 2 and 1, those of the duels 1 and 16; within their rounds it is 1.25 and 1.6."""
    ours, theirs = (Spec(who, "lsun256", batch=1, settings=("bf16",)) for who in ("alphabar", "diffusers"))
    timed = [
        Timed(ours, 1, {"step": [1.0], "sample": [1.0]}),
        Timed(replace(ours, settings=()), 1, {"step": [9.0], "sample": [9.0]}),
        Timed(theirs, 1, {"step": [2.0], "sample": [1.0]}),
    ]
    assert bench_gpu.fastest(timed, "alphabar", "lsun256", "step") is timed[0]
    assert bench_gpu.fastest(timed, "alphabar", "cifar10", "step") is None
    fought = [
        ("step", Timed(ours, 1, {"step": [1.0, 10.0, 16.0]}), Timed(theirs, 1, {"step": [1.25, 12.5, 10.0]})),
        ("sample", Timed(ours, 1, {"sample": [1.0, 10.0, 1.0]}), Timed(theirs, 1, {"sample": [1.6, 16.0, 20.0]})),
    ]
    work, rates = {"lsun256": {"forward": 1.0, "step": 3.0}}, {"fp32": 1.0, "bf16": 6.0}
    lines = bench_gpu.goals(fought, timed, work, rates)
    step, sample, share = (line for line in lines if line.startswith("| lsun256 "))
    assert step.endswith("| 1.25 | not met |") and sample.endswith("| 1.6 | met |")
    assert share.endswith("| 0.5 | met |")
    assert sum(line.endswith("| not measured | |") for line in lines) == 2, "the other network's goals are named, too"
