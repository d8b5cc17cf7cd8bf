"""The data contract and the split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.base.errors import ConfigError, DataError, StorageError
from alphabar.data import memory
from alphabar.data.batch import Images, split
from alphabar.data.order import coin, permutation


def images(n: int = 10, labelled: bool = True, **changes: Any) -> Images:
    pixels = np.arange(n * 2 * 3, dtype=np.uint8).reshape(n, 1, 2, 3)
    labels = np.arange(n, dtype=np.int64) % 3 if labelled else None
    fields = {"pixels": pixels, "labels": labels, "class_names": ("a", "b", "c") if labelled else ()}
    return Images(**{**fields, "name": "small", "spec": "folder:/small", **changes})


def test_images_say_their_length_shape_and_fingerprint() -> None:
    one, same = images(), images()
    assert len(one) == 10
    assert one.shape == (1, 2, 3)
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 32


def test_fingerprint_sees_pixels_labels_shape_and_missing_labels() -> None:
    base = images()
    other_pixels = base.pixels.copy()
    other_pixels[3, 0, 1, 1] ^= 1
    assert base.labels is not None
    variants = [
        base,
        images(pixels=other_pixels),
        images(pixels=base.pixels.reshape(10, 1, 3, 2)),
        images(labels=base.labels[::-1].copy()),
        images(labelled=False),
    ]
    assert len({each.fingerprint for each in variants}) == len(variants)


def test_fingerprint_does_not_depend_on_memory_layout_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    base = images()
    columns = np.asfortranarray(base.pixels)
    assert images(pixels=columns).fingerprint == base.fingerprint
    monkeypatch.setattr(memory, "CHUNK_BYTES", 13)
    assert images().fingerprint == base.fingerprint


def test_images_are_read_only_and_the_callers_array_is_not() -> None:
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    held = images(pixels=pixels, labels=None, class_names=())
    with pytest.raises(ValueError, match="read-only"):
        held.pixels[0] = 1
    pixels[0] = 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixels": np.zeros((10, 1, 2, 2), np.float32)}, "uint8"),
        ({"pixels": np.zeros((10, 2, 2), np.uint8)}, r"\[N, C, H, W\]"),
        ({"pixels": np.zeros((10, 0, 2, 2), np.uint8)}, "at least one channel"),
        ({"pixels": np.zeros((10, 1, 0, 2), np.uint8)}, "empty side"),
        ({"labels": np.zeros(10, np.int32)}, "int64"),
        ({"labels": np.zeros(9, np.int64)}, r"int64 \[10\]"),
        ({"labels": np.full(10, 3, np.int64)}, "0 to 2"),
        ({"labels": np.full(10, -1, np.int64)}, "from -1"),
        ({"labels": None}, "class names without labels"),
    ],
)
def test_contract_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        images(**changes)
    assert "\n" not in str(caught.value)


def test_gather_gives_tensors_of_its_own() -> None:
    held = images()
    batch = held.gather(np.array([4, 4, 0]))
    assert batch.x.dtype == torch.uint8
    assert batch.y is not None
    assert batch.y.dtype == torch.int64
    assert batch.y.tolist() == [1, 1, 0]
    batch.x.zero_()
    assert held.pixels[4].any()
    assert images(labelled=False).gather(np.array([0])).y is None


def test_subset_keeps_order_classes_and_spec() -> None:
    part = images().subset(np.array([7, 2]))
    assert part.pixels[:, 0, 0, 0].tolist() == [42, 12]
    assert part.labels is not None
    assert part.labels.tolist() == [1, 2]
    assert (part.class_names, part.spec) == (("a", "b", "c"), "folder:/small")


@pytest.mark.parametrize("wrong", [[10], [-1], [0.5], [[1]]])
def test_subset_refuses_other_indices(wrong: list[Any]) -> None:
    with pytest.raises(ConfigError, match="indices"):
        images().subset(np.array(wrong))


@given(n=st.integers(1, 60), seed=st.integers(-(2**70), 2**70), data=st.data())
def test_split_is_disjoint_complete_and_pure(n: int, seed: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(0, n - 1))
    pixels = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    whole = Images(pixels, None, (), "n", "folder:/n")
    train, kept = split(whole, seed, held_out)
    assert len(kept) == held_out
    assert sorted([*train.pixels.ravel(), *kept.pixels.ravel()]) == list(range(n))
    again = split(whole, seed, held_out)
    assert (again[0].fingerprint, again[1].fingerprint) == (train.fingerprint, kept.fingerprint)


def test_split_depends_on_the_seed() -> None:
    assert split(images(), 1, 4)[1].fingerprint != split(images(), 2, 4)[1].fingerprint


@pytest.mark.parametrize("held_out", [-1, 10, 11])
def test_split_leaves_something_to_train_on(held_out: int) -> None:
    with pytest.raises(ConfigError, match="allowed are 0 to 9"):
        split(images(), 0, held_out)


def test_orders_are_these_for_ever() -> None:
    """A run resumed under another numpy must see the same batches; these values may never change."""
    assert permutation(8, 0, "epoch", 0).tolist() == ORDER
    assert coin(np.arange(12), 0, "flip").astype(int).tolist() == COINS


ORDER = [6, 3, 5, 1, 0, 7, 4, 2]
COINS = [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1]


def test_coins_are_fair_and_independent_of_batching() -> None:
    all_at_once = coin(np.arange(20_000), 3, "flip")
    assert abs(all_at_once.mean() - 0.5) < 0.02
    assert abs((all_at_once[1:] == all_at_once[:-1]).mean() - 0.5) < 0.02
    assert (all_at_once[700:800] == coin(np.arange(700, 800), 3, "flip")).all()


def test_large_sets_live_in_an_unnamed_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 10)
    part = images().subset(np.array([1, 2, 3]))
    assert isinstance(part.pixels, np.memmap)
    assert not part.pixels.flags.writeable
    assert part.gather(np.array([0])).x.flatten().tolist() == list(range(6, 12))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="TMPDIR"):
        memory.allocate((2**50,))

    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 10)
    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(StorageError, match="GiB are free"):
        memory.allocate((11,))
