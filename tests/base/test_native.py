"""Compiling our own C where that is possible, and doing without where it is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from alphabar.base.native import native

SOURCE = "int twice(int x) { return 2 * x; }\n"


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A cache folder of one's own, and no memory of what was compiled."""
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    native.cache_clear()
    yield
    native.cache_clear()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "twice.c"
    path.write_text(SOURCE)
    return path


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Make ``script`` the only ``cc`` there is."""
    folder.mkdir()
    (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "cc").chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))


def libraries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "native").glob("*"))


def test_it_is_compiled_once_and_kept(source, tmp_path, monkeypatch):
    assert native(source).twice(21) == 42
    (library,) = libraries(tmp_path)
    assert stat.S_IMODE(library.stat().st_mode) == stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    written = library.stat().st_mtime_ns
    native.cache_clear()
    assert native(source).twice(4) == 8
    assert libraries(tmp_path) == [library] and library.stat().st_mtime_ns == written


def test_another_text_is_another_library(source, tmp_path):
    assert native(source).twice(21) == 42
    native.cache_clear()
    source.write_text(SOURCE.replace("2 *", "3 *"))
    assert native(source).twice(21) == 63
    assert len(libraries(tmp_path)) == 2


def test_what_others_may_write_to_is_not_taken(source, tmp_path):
    native(source)
    (library,) = libraries(tmp_path)
    library.unlink()  # this process goes on with the file that it has loaded
    library.write_bytes(b"not what was compiled")
    library.chmod(0o720)
    native.cache_clear()
    assert native(source).twice(21) == 42
    assert stat.S_IMODE(library.stat().st_mode) == 0o700


def test_one_that_is_damaged_is_made_anew(source, tmp_path):
    native(source)
    (library,) = libraries(tmp_path)
    library.unlink()
    library.write_bytes(b"")
    library.chmod(0o700)
    native.cache_clear()
    assert native(source).twice(21) == 42


def test_a_folder_that_others_may_write_to_is_not_used(source, tmp_path):
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    assert native(source) is None and not libraries(tmp_path)


def test_a_header_beside_it_is_part_of_it(source, tmp_path):
    header = source.with_name("factor.h")
    source.write_text('#include "factor.h"\nint twice(int x) { return FACTOR * x; }\n')
    for factor in (2, 5):
        header.write_text(f"#define FACTOR {factor}\n")
        native.cache_clear()
        assert native(source).twice(21) == factor * 21


def test_nothing_is_compiled_for_processors_that_could_not_run_it(source, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert native(source) is None and not libraries(tmp_path)


def test_without_a_compiler_there_is_none(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert native(source) is None


@pytest.mark.parametrize(
    "script",
    ["exit 1", "exit 0", 'for last; do :; done; echo nonsense > "$last"'],
    ids=["fails", "nothing", "nonsense"],
)
def test_with_one_that_fails_there_is_none_and_nothing_is_left(script, source, tmp_path, monkeypatch):
    compiler(tmp_path / "bin", monkeypatch, script)
    assert native(source) is None
    assert len(libraries(tmp_path)) == (script.endswith('"$last"'))


def test_one_that_does_not_end_is_given_up(source, tmp_path, monkeypatch):
    compiler(tmp_path / "bin", monkeypatch, "exec /bin/sleep 60")
    monkeypatch.setattr("alphabar.base.native.PATIENCE", 0.2)
    assert native(source) is None and not libraries(tmp_path)


def test_a_mistake_in_the_text_is_no_error(source):
    source.write_text("int twice(int x) { return y; }")
    assert native(source) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_no_error(source, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert native(source) is None


def test_a_cache_that_is_a_file_is_no_error(source, tmp_path):
    (tmp_path / "cache").write_text("")
    assert native(source) is None
