"""Whether a step fits: weights, what is beside them, and images, against the bytes that are said to be free."""

from __future__ import annotations

import pytest
import torch

import alphabar as ab
from alphabar.base.errors import ConfigError, OutOfMemory
from alphabar.model.cost import memory_per_image_trained
from alphabar.training.room import check_room
from tiny import config

BATCH = 12
NET = config().net
EACH = memory_per_image_trained(NET, 8, 8, checkpointing=False)
# seven copies of the weights in four bytes each, and 300 MB
ALWAYS = 3 * 10**8 + 7 * 4 * sum(p.numel() for p in ab.UNet(**vars(NET)).parameters())


@pytest.fixture
def refusal(monkeypatch):
    """The refusal with so many bytes free, or None."""

    def ask(free: float | None, **run: object) -> OutOfMemory | None:
        monkeypatch.setattr("alphabar.training.room.available_memory", lambda device: free)
        try:
            check_room(config(run={"batch": BATCH, **run}), (NET.input_channels, 8, 8), torch.device("cpu"))
        except OutOfMemory as error:
            return error
        return None

    return ask


def test_the_weights_and_every_image_of_the_batch_count(refusal):
    assert refusal(ALWAYS + BATCH * EACH) is None
    assert "too little memory for batch 12: a step takes about 0.3" in str(refusal(ALWAYS + BATCH * EACH - 1))
    assert refusal(None) is None  # who does not know refuses nothing


def test_of_a_batch_in_parts_only_a_part_counts(refusal):
    assert refusal(ALWAYS + 4 * EACH, micro_batch=4) is None
    assert "for micro-batch 4: " in str(refusal(ALWAYS + 4 * EACH - 1, micro_batch=4))


@pytest.mark.parametrize(
    ("images", "fits"),
    [(11.9, 1), (1, 1), (0.9, None)],
    ids=["half of it would be too little for two", "one image may take everything", "not even one"],
)
def test_what_the_weights_leave_is_too_little_for_half_of_it_to_stay_free(images, fits, refusal):
    assert refusal(ALWAYS + images * EACH).micro_batch == fits


@pytest.mark.parametrize(("images", "fits"), [(5.9, 3), (3, 3), (2.9, 2), (2, 2), (1.9, 1)])
def test_the_part_that_is_named_leaves_half_of_the_memory_free(images, fits, refusal, monkeypatch):
    monkeypatch.setattr("alphabar.training.room.BESIDE", 0)
    monkeypatch.setattr("alphabar.training.room.OF_WEIGHTS", 0)
    found = refusal(2 * images * EACH)
    assert found.micro_batch == fits and f"--micro-batch {fits} fits" in str(found)


def test_what_is_advised_where_no_part_fits_is_not_what_is_done_already(refusal):
    assert str(refusal(0)).endswith("; use run.activation_checkpointing=true, or a smaller network or image")
    assert str(refusal(0, activation_checkpointing=True)).endswith(" are free; use a smaller network or image")


def test_images_that_the_network_cannot_take_are_refused_for_that(monkeypatch):
    monkeypatch.setattr("alphabar.training.room.available_memory", lambda device: 0)
    with pytest.raises(ConfigError, match="7"):
        check_room(config(), (NET.input_channels, 7, 8), torch.device("cpu"))
