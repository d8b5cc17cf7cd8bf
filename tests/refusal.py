"""What every refusal of the command line must be: an exit code, one printable line on stderr, and nothing changed."""

from __future__ import annotations

from pathlib import Path

from alphabar.cli.main import main
from tiny import files


def snapshot(root: Path) -> tuple[dict[str, bytes], set[Path]]:
    found = {name: data for name, data in files(root).items() if not name.endswith(".lock")}
    return found, {p for p in root.rglob("*") if p.is_dir()}


def refused(capsys, arguments: list[str], code: int, *words: str, unchanged: Path | None = None) -> str:
    """The one line that ``arguments`` are answered with, after which nothing below ``unchanged`` differs."""
    root = unchanged or Path.cwd()
    before = snapshot(root)
    capsys.readouterr()
    found = main(arguments)
    err = capsys.readouterr().err
    assert found == code, err
    assert len(err.splitlines()) == 1 and err.endswith("\n"), err
    assert err.startswith("error: ") and "Traceback" not in err
    assert err[:-1].isprintable()
    for word in words:
        assert word in err, err
    assert snapshot(root) == before
    return err
