"""Disks that are full, read-only or refuse."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from reliability.crashes import keep_checkpoints
from reliability.disks import (
    files_too_large,
    fill_up,
    full_for_other_commands,
    immutable,
    locked_for_a_while,
    no_room_to_start,
    read_only,
    refuse_in_save,
    small_disk,
    unwritable,
)


@pytest.fixture
def disk(place, request):
    with small_disk(place / request.node.name) as mounted:
        if mounted is None:
            pytest.skip("file systems cannot be mounted here (needs root); test_files_that_may_not_grow runs instead")
        yield mounted


def test_a_disk_that_fills_up(short, disk):
    outcome = fill_up(short, disk)
    assert outcome.trials == 2 and not outcome.failures


def test_files_that_may_not_grow(short):
    assert not files_too_large(short).failures


@pytest.mark.parametrize(
    ("step", "code", "required"), [(15, errno.ENOSPC, False), (20, errno.ENOSPC, True), (15, errno.EIO, False)]
)
def test_a_refusal_at_every_operation_of_a_save(short, step, code, required):
    if not (short.root / "checkpoints").exists():
        keep_checkpoints(short)
    outcome = refuse_in_save(short, step, code, required)
    assert outcome.trials > 20 and not outcome.failures


def test_no_room_at_the_start(short):
    outcome = no_room_to_start(short)
    assert outcome.trials > 10 and not outcome.failures


def test_other_commands_on_a_full_disk(short, disk):
    commands = {
        "sample": ["-n", "70", "--steps", "2"],
        "evaluate": ["-n", "4"],
        "figures": ["--only", "schedule", "--n", "2"],
    }
    outcome = full_for_other_commands(short, disk, commands)
    assert outcome.trials == 3 and not outcome.failures


@pytest.fixture
def copy(short, request):
    run = short.folder(request.node.name)
    shutil.copytree(short.whole, run)
    return run


def test_a_read_only_mount(short, copy):
    with read_only(copy) as done:
        if not done:
            pytest.skip("folders cannot be mounted read-only here (needs root)")
        assert not unwritable(short, copy).failures


def test_an_immutable_folder(short, copy):
    with immutable(copy) as done:
        if not done:
            pytest.skip("chattr +i does not work here (needs root and a file system that has it)")
        assert not unwritable(short, copy).failures


def test_a_folder_without_write_permission(short, copy):
    copy.chmod(0o555)
    faults = [{"kind": "unprivileged"}] if os.getuid() == 0 else []
    try:
        assert not unwritable(short, copy, *faults).failures
    finally:
        copy.chmod(0o755)


def test_a_folder_that_is_locked_for_a_while(short):
    assert not locked_for_a_while(short).failures
