"""Work that is kept between calls: only intact bytes of the very same computation are used again."""

from __future__ import annotations

import torch

from alphabar.base.cache import cache_folder
from alphabar.evaluation import cache
from alphabar.evaluation.parts import Parts, key_of
from alphabar.evaluation.work import BoundWork
from alphabar.model.variance import FixedLarge
from alphabar.training.trainer import new_denoiser
from tiny import config, images


def test_another_version_computes_anew(tmp_path, monkeypatch):
    """Its samplers may take other steps under the same names."""
    Parts(tmp_path, "samples", {"weights": "a"}).put("000000", {"x": torch.ones(5)})
    assert Parts(tmp_path, "samples", {"weights": "a"}).has("000000", 5)
    monkeypatch.setattr("alphabar.evaluation.parts.__version__", "9.9.9")
    assert not Parts(tmp_path, "samples", {"weights": "a"}).has("000000", 5)


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("ALPHABAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "alphabar"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "alphabar"


def test_tensors_come_back_bit_for_bit(tmp_path):
    given = {"a": torch.randn(3, 4, dtype=torch.float64).T, "b": torch.tensor([1, 2], dtype=torch.uint8)}
    cache.write_tensors(tmp_path / "x", given)
    found = cache.read_tensors(tmp_path / "x")
    assert found is not None and all(torch.equal(found[name], given[name]) for name in given)


def test_every_flipped_byte_is_noticed(tmp_path):
    cache.write_tensors(tmp_path / "x", {"a": torch.arange(4)})
    data = (tmp_path / "x").read_bytes()
    for place in range(len(data)):
        (tmp_path / "x").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert cache.read_tensors(tmp_path / "x") is None
    for length in (0, 10, 32, len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        assert cache.read_tensors(tmp_path / "x") is None
    assert cache.read_tensors(tmp_path / "missing") is None


def test_parts_belong_to_their_facts(tmp_path):
    one, other = (Parts(tmp_path, "samples", {"weights": w, "times": [2, 1, 0]}) for w in "ab")
    one.put("000000", {"x": torch.arange(5)})
    assert one.has("000000", 5) and not other.has("000000", 5)
    assert Parts(tmp_path, "samples", {"times": [2, 1, 0], "weights": "a"}).has("000000", 5)
    assert not Parts(tmp_path, "bound", {"weights": "a", "times": [2, 1, 0]}).has("000000", 5)


def test_a_longer_part_serves_a_shorter_call_and_not_the_other_way(tmp_path):
    parts = Parts(tmp_path, "samples", {})
    parts.put("000000", {"x": torch.arange(5)})
    assert parts.get("000000", 3)["x"].tolist() == [0, 1, 2]
    assert not parts.has("000000", 6)


def test_keys_differ_wherever_facts_do():
    keys = {key_of(facts) for facts in ({}, {"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1, 2]}, {"a": [2, 1]}, {"b": 1})}
    assert len(keys) == 7


def test_a_bound_is_kept_for_its_variance_and_clip(tmp_path):
    """Both can be changed without the weights, and decide the bound."""
    data, denoiser = images(4), new_denoiser(config(), (1, 8, 8)).eval()

    def left() -> int:
        return BoundWork(denoiser, data, tmp_path, {"weights": "w"}, seed=0).left()

    for _ in BoundWork(denoiser, data, tmp_path, {"weights": "w"}, seed=0).run():
        pass
    assert left() == 0
    denoiser.clip, clip = None, denoiser.clip
    assert left() == 4
    denoiser.clip, denoiser.variance = clip, FixedLarge()
    assert left() == 4
