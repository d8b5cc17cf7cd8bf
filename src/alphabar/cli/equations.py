"""``alphabar equations``: from the paper to the code, read from the docstrings without importing anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alphabar.cli.console import say

__all__ = ["Entry", "entries", "markdown", "run"]

ROOT = Path(__file__).resolve().parents[1]
TAG = re.compile(
    r"(?P<tag>Eqs?\. [\d–, and]+|Algorithm \d[^.]*|Section [\d.]*\d|DDIM, Eq\. \d+"
    r"|[A-Z]\w+ (?:and \w+|et al\.) \(\d{4}\))"
    r"(?P<detail>,? ?[^.(]*(?:\([^)]*\))?[^.]*)\.  (?P<formula>[^\n]+)"
)


@dataclass(frozen=True)
class Entry:
    """One line of the map."""

    tag: str
    detail: str
    function: str
    file: str
    line: int
    formula: str

    @property
    def order(self) -> tuple[int, float]:
        """Equations by number, then algorithms, then everything else."""
        number = re.search(r"\d+", self.tag)
        group = 0 if self.tag.startswith("Eq") else 1 if self.tag.startswith("Algorithm") else 2
        return group, float(number[0]) if number else 0.0


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}", part


def entries() -> list[Entry]:
    """Every docstring in the package that begins with the number of an equation or algorithm, in the paper's order."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for name, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
            match = TAG.match(ast.get_docstring(node) or "")
            if match:
                detail = match["detail"].strip(" ,")
                file = str(path.relative_to(ROOT.parent))
                found.append(
                    Entry(match["tag"].strip(), detail, name, file, node.lineno, match["formula"].rstrip(" ."))
                )
    return sorted(found, key=lambda entry: (*entry.order, entry.file, entry.line))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def markdown() -> str:
    """The map as ``docs/equations.md``."""
    rows = [
        f"| {entry.tag}{f' {entry.detail}' if entry.detail else ''} | `{entry.function}` "
        f"| [{entry.file}:{entry.line}](../src/{entry.file}#L{entry.line}) | {_cell(entry.formula)} |"
        for entry in entries()
    ]
    head = [
        "# Where every equation is",
        "",
        "Written by `alphabar equations --markdown` from the docstrings; α = ᾱ_t/ᾱ_s and β = 1 − α for a hop t → s.",
        "",
        "| equation | function | where | formula |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def run(as_markdown: bool) -> None:
    """The command."""
    if as_markdown:
        print(markdown(), end="")
        return
    table = entries()
    tags = [f"{entry.tag} {entry.detail}".strip() for entry in table]
    width, names = max(map(len, tags)), max(len(entry.function) for entry in table)
    places = max(len(f"{entry.file}:{entry.line}") for entry in table)
    for tag, entry in zip(tags, table, strict=True):
        say(f"{tag:<{width}}  {entry.function:<{names}}  {f'{entry.file}:{entry.line}':<{places}}  {entry.formula}")
