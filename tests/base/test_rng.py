"""Randomness is a pure function of the seed and of what it is for."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from alphabar.base.rng import PerImage, Rng, Uniforms, derive, stream, uniforms
from noise import InjectedNoise

GOLDEN = [4246866556266386882, 5851852202002750450, 5869547618189289332]


def test_derive_has_not_changed():
    assert derive(0) == GOLDEN[0]
    assert derive(0, "eps", 7) == GOLDEN[1]
    assert derive(2**62, "image") == GOLDEN[2]


def test_derive_is_blake2b_of_the_typed_keys():
    text = b"5\x1fstr:t\x1fint:3"
    assert derive(5, "t", 3) == int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") // 2


def test_derive_separates_seed_keys_types_and_order():
    made = [derive(0), derive(1), derive(0, 1), derive(0, "1"), derive(0, "a", "b"), derive(0, "b", "a")]
    made += [derive(0, "ab"), derive(0, "a", "b", ""), derive(0, 1.0), derive(10, 1), derive(1, 0, 1), derive(-1)]
    assert len(set(made)) == len(made)
    assert all(0 <= seed < 2**63 for seed in made)


def test_derive_spreads_neighbouring_steps():
    seeds = np.array([derive(0, "eps", step) for step in range(2000)], dtype=np.uint64)
    assert len(np.unique(seeds)) == 2000
    bits = (seeds[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(0) - 0.5).max() < 0.06  # 5 standard errors


def test_a_stream_is_pure_and_leaves_the_global_one_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = stream(4, "eps", 2).randn((3, 5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    torch.randn(10)
    assert torch.equal(stream(4, "eps", 2).randn((3, 5)), first)
    assert not torch.equal(stream(4, "eps", 3).randn((3, 5)), first)
    assert not torch.equal(stream(5, "eps", 2).randn((3, 5)), first)


def test_a_stream_is_torchs_generator_with_the_derived_seed():
    expected = torch.randn(4, generator=torch.Generator().manual_seed(derive(7, "x")))
    assert torch.equal(stream(7, "x").randn([4]), expected)


def test_streams_do_not_share_state():
    a, b = stream(0, "a"), stream(0, "b")
    alone = stream(0, "b").randn([4])
    a.randn([100])
    assert torch.equal(b.randn([4]), alone)


def test_two_draws_of_one_stream_differ():
    rng = stream(0)
    assert not torch.equal(rng.randn([8]), rng.randn([8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_randn_like_follows_shape_and_dtype(dtype):
    x = torch.empty((2, 1, 3), dtype=dtype)
    for rng in (Rng(0), PerImage([1, 2])):
        drawn = rng.randn_like(x)
        assert drawn.shape == x.shape and drawn.dtype == dtype


def test_the_other_draws_have_the_right_range():
    rng = Rng(0)
    u = rng.rand([10_000])
    assert u.dtype == torch.float64 and 0 <= u.min() and u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.015)
    i = rng.randint(3, 6, [1000])
    assert i.dtype == torch.int64 and i.unique().tolist() == [3, 4, 5]
    assert rng.permutation(50).sort().values.tolist() == list(range(50))


def test_an_image_depends_on_its_own_seed_alone():
    alone = PerImage([7])
    among = PerImage([3, 7, 5])
    many = PerImage(range(20))
    for _ in range(3):
        one = alone.randn((1, 4, 4))
        assert torch.equal(among.randn((1, 4, 4))[1], one[0])
        assert torch.equal(many.randn_like(torch.empty(20, 1, 4, 4))[7], one[0])


def test_images_of_different_seeds_differ_and_are_standard_normal():
    drawn = PerImage(range(64)).randn((1, 16, 16), torch.float64)
    assert len({row.numpy().tobytes() for row in drawn}) == 64
    assert drawn.mean().item() == pytest.approx(0, abs=0.04) and drawn.var().item() == pytest.approx(1, abs=0.06)
    correlation = np.corrcoef(drawn.flatten(1).numpy())
    assert np.abs(correlation - np.eye(64)).max() < 0.35


def test_equal_seeds_give_equal_images():
    a, b = PerImage([4, 4]).randn((1, 2, 2))
    assert torch.equal(a, b)


def test_per_image_refuses_another_batch_size():
    with pytest.raises(ValueError, match=r"3.*2"):
        PerImage([0, 1]).randn_like(torch.empty(3, 1, 2, 2))


def test_uniforms_come_from_the_stream_where_it_has_them():
    assert isinstance(Rng(0), Uniforms) and not isinstance(InjectedNoise([]), Uniforms)
    assert torch.equal(uniforms(Rng(3), [5]), Rng(3).rand([5]))


def test_uniforms_of_normals_are_uniform_and_below_one():
    normal = torch.tensor([-40.0, -1.0, 0.0, 1.0, 40.0], dtype=torch.float64)
    u = uniforms(InjectedNoise([normal]), [5])
    assert u.dtype == torch.float64
    assert u[1:4].tolist() == pytest.approx([0.15865525393145707, 0.5, 0.8413447460685429], abs=1e-15)
    assert 0 <= u[0] and u[4] < 1

    class Normals:
        def randn_like(self, x):
            return stream(0, "normals").randn_like(x)

    drawn = uniforms(Normals(), [20_000]).sort().values
    ranks = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert (drawn - ranks).abs().max() < 1.95 / 20_000**0.5  # Kolmogorov, p = 0.001
