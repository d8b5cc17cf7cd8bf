"""The list of bugs of ``make campaign``: whoever changes a line that one of them changes hears of it at once."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "scripts").is_dir():
    pytest.skip("an installed package has no scripts", allow_module_level=True)
sys.path.insert(0, str(ROOT / "scripts"))

import mutants  # noqa: E402


def test_every_bug_can_be_put_into_the_code(tmp_path):
    for bug in mutants.load()[-1]:
        copy = tmp_path / bug.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "src" / "alphabar" / bug.file, copy)
        bug.apply(tmp_path)


def test_a_bug_whose_line_has_changed(tmp_path):
    (tmp_path / "some.py").write_text("x = 1\n")
    with pytest.raises(mutants.Untrue, match=r"occurs 0 times in some\.py"):
        mutants.Mutant("a bug", "some.py", "y = 1", "y = 2").apply(tmp_path)
