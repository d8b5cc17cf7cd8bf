"""What a process may still take: the machine's free memory, or what its control groups leave of theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alphabar.base import memory

CPU = torch.device("cpu")


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """A machine with 1000 bytes free, whose control groups are under the folder."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000, free=3, used=5, total=9999))
    monkeypatch.setattr(memory, "MOUNTED", tmp_path / "groups")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    return tmp_path / "groups"


def member(groups: Path, text: str) -> None:
    groups.with_name("membership").write_text(text)


def version_2(group: Path, limit: object, used: int, idle: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 17\ninactive_file {idle}\nactive_file 1\n")


def version_1(group: Path, limit: int, used: int, idle: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {idle}\n")


def test_without_groups_it_is_what_the_system_says(groups):
    assert memory.available_memory(CPU) == 1000
    assert memory.available_memory(torch.device("meta")) is None


def test_a_group_without_a_limit(groups):
    member(groups, "0::/user.slice\n")
    version_2(groups / "user.slice", "max", 5000, 0)
    assert memory.available_memory(CPU) == 1000


def test_the_limit_of_a_group_and_of_those_above_it(groups):
    member(groups, "0::/a/b\n")
    version_2(groups / "a" / "b", 900, 300, 50)  # what waits to be written or read again can be taken back
    assert memory.available_memory(CPU) == 650
    version_2(groups / "a", 700, 600, 20)
    assert memory.available_memory(CPU) == 120
    version_2(groups / "a", 700, 800, 20)  # a limit that was lowered
    assert memory.available_memory(CPU) == 0
    version_2(groups / "a", 700, 600, 20)
    version_2(groups.parent, 7, 7, 0)  # above the groups is none
    assert memory.available_memory(CPU) == 120


def test_a_container_that_sees_its_group_as_the_root(groups):
    member(groups, "0::/docker/0123abc\n")
    version_2(groups, 800, 500, 0)
    assert memory.available_memory(CPU) == 300


def test_the_first_version(groups):
    member(groups, "9:name=systemd:/\n5:cpu,cpuacct:/\n4:hugetlb,memory:/jobs/7\n0::/\n")
    version_1(groups / "memory" / "jobs" / "7", 2**63 - 4096, 10**9, 0)  # no limit
    assert memory.available_memory(CPU) == 1000
    version_1(groups / "memory", 600, 450, 30)
    assert memory.available_memory(CPU) == 180


def test_files_that_say_something_else(groups):
    member(groups, "0::/a\n")
    version_2(groups / "a", 900, 300, 0)
    (groups / "a" / "memory.stat").write_text("nothing\n")
    assert memory.available_memory(CPU) == 1000
