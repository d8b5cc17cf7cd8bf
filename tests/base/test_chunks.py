"""Pieces that fit: every row once and in order, whatever the memory, and no other error is swallowed."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.base.chunks import Chunks, asked_for, is_out_of_memory
from alphabar.base.errors import OutOfMemory


@given(st.integers(0, 200), st.integers(0, 300), st.integers(1, 64))
def test_every_row_once_in_pieces_that_fit(start, n, fits):
    tried: list[int] = []

    def call(piece: range) -> list[int]:
        tried.append(len(piece))
        if len(piece) > fits:
            raise MemoryError
        return list(piece)

    chunks = Chunks("rows")
    rows = range(start, start + n)
    found = chunks(call, rows)
    assert [i for piece in found for i in piece] == list(rows)
    assert all(len(piece) <= fits for piece in found)
    failed = sum(size > fits for size in tried)
    assert failed <= 9, "what failed is halved, not tried again"
    before = len(tried)
    chunks(call, rows)
    assert all(size <= fits for size in tried[before:]), "a second call remembers"


def test_one_warning_then_one_error(caplog):
    def call(piece: range) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried "
            "to allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"
        )

    with caplog.at_level(logging.WARNING), pytest.raises(OutOfMemory, match=r"preview: .* one image .*4\.0 GB"):
        Chunks("preview")(call, range(8))
    assert len(caplog.records) == 1 and "preview" in caplog.text and "8 images" in caplog.text


def test_other_errors_pass():
    def call(piece: range) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Chunks("x")(call, range(8))


def test_a_real_allocation_that_cannot_be():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert "GB" in asked_for(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert asked_for(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")).endswith("2.1 GB)")
    assert not is_out_of_memory(ValueError("can't allocate memory"))
