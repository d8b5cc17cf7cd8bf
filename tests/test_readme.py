"""The README's Python runs as written, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import alphabar as ab
from alphabar.cli.equations import markdown
from alphabar.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_first_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a run of two steps, so only that it runs and what shapes come out."""
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", "digits", "--steps", "2", "net.base_channels=8", "run.batch=4", "run.preview_every=1000"]) == 0
    )
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert 12 <= len([line for line in code.splitlines() if line.strip()]) <= 15
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (16, 1, 8, 8)
    assert names["x_t"].shape == names["x0"].shape == (8, 1, 8, 8)
    assert capsys.readouterr().out.count("tensor(") == 3


def test_the_names_in_the_table_of_equations() -> None:
    rows = re.findall(r"^\| (?:Eq|Alg).*\| (.*) \|$", README, re.M)
    assert len(rows) == 10
    for name in re.findall(r"`((?:equations|objectives|samplers)\.\w+)`", "\n".join(rows)):
        family, _, member = name.partition(".")
        assert hasattr(getattr(ab, family), member), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_map_of_equations_is_fresh() -> None:
    """``make docs`` rewrites it."""
    assert (ROOT / "docs" / "equations.md").read_text(encoding="utf-8") == markdown()
