"""What may import what, what is public, and what appears nowhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import alphabar

ROOT = Path(alphabar.__file__).parent
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "process": {"base"},
    "model": {"base", "process"},
    "model.nn": {"base"},
    "data": {"base"},
    "weights": {"base", "process", "model"},
    "samplers": {"base", "process", "model"},
    "training": {"base", "process", "model", "data", "weights", "samplers"},
    "evaluation": {"base", "process", "model", "data", "weights", "samplers"},
    "runtime": {"base", "process", "model", "data", "weights", "samplers", "training", "evaluation"},
}
FREE = {"cli", "__init__", "__main__"}
PUBLIC = [
    "OBJECTIVES",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "SOURCES",
    "VARIANCES",
    "X0",
    "AlphabarError",
    "AlphabarWarning",
    "Bound",
    "Chain",
    "Clip",
    "Denoiser",
    "Eps",
    "Estimate",
    "FixedLarge",
    "FixedSmall",
    "Frame",
    "Learned",
    "LearnedRange",
    "Mean",
    "PerImage",
    "Rng",
    "RunConfig",
    "Schedule",
    "Score",
    "Transition",
    "UNet",
    "UNetConfig",
    "V",
    "__version__",
    "build",
    "equations",
    "fit",
    "generate",
    "load",
    "load_config",
    "objectives",
    "open_source",
    "recipes",
    "sample",
    "samplers",
    "save",
    "schedules",
    "stream",
    "to_model_range",
    "to_uint8",
    "trajectory",
    "variational_bound",
]


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(dotted module below alphabar, its syntax tree) of every file."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            # the name itself may be a module: from alphabar.model import nn
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def layer(module: str) -> str:
    """``model.nn`` for modules in it, else the first part."""
    parts = module.split(".")
    return "model.nn" if parts[:2] == ["model", "nn"] else parts[0]


def calls(tree: ast.AST, name: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_no_layer_imports_from_above():
    wrong = []
    for module, tree in sources():
        here = layer(module)
        if here in FREE:
            continue
        for line, name in imported(tree):
            if name.split(".")[0] != "alphabar":
                continue
            there = layer(name.removeprefix("alphabar").strip(".") or "__init__")
            # who may import model may import model.nn, and model may itself
            if there.split(".")[0] not in LAYERS[here] | {here} and there != here:
                wrong.append(f"{module}:{line} imports {name}")
    assert not wrong


def test_every_package_is_in_the_table():
    found = {layer(module) for module, _ in sources()}
    assert found - FREE == set(LAYERS)


def test_the_walk_sees_an_import_from_above():
    tree = ast.parse("def f():\n    from alphabar.training import trainer\n    import alphabar.cli.main as m\n")
    assert [name for _, name in imported(tree)] == ["alphabar.training.trainer", "alphabar.cli.main"]
    assert [layer(n.removeprefix("alphabar.")) for _, n in imported(tree)] == ["training", "cli"]
    assert layer("model.nn.unet") == "model.nn" and layer("model.network") == "model"


def test_only_the_command_line_prints():
    assert [f"{m}:{line}" for m, tree in sources() if layer(m) != "cli" for line in calls(tree, "print")] == []


def test_only_the_command_line_reads_arguments_or_leaves():
    for module, tree in sources():
        if layer(module) in {"cli", "__main__"}:
            continue
        text = ast.unparse(tree)
        assert "sys.argv" not in text and "sys.exit" not in text and not calls(tree, "exit"), module


def test_nothing_is_distributed():
    for module, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute):
                assert not re.search(r"torch(\.| import .*)distributed", ast.unparse(node)), module


def test_nothing_knows_a_test():
    for module, tree in sources():
        for line, name in imported(tree):
            assert name.split(".")[0] not in {"pytest", "tests", "hypothesis", "sklearn", "scipy"}, f"{module}:{line}"


def test_matplotlib_is_imported_only_when_used():
    for module, tree in sources():
        for node in tree.body:
            for line, name in imported(node) if isinstance(node, ast.Import | ast.ImportFrom) else ():
                assert name.split(".")[0] != "matplotlib", f"{module}:{line}"


def test_every_module_says_what_it_is():
    assert [module for module, tree in sources() if not ast.get_docstring(tree)] == []


def test_the_public_names_are_these():
    assert alphabar.__all__ == PUBLIC
    assert dir(alphabar) == sorted(PUBLIC)


def test_every_public_name_can_be_imported():
    for name in PUBLIC:
        assert getattr(alphabar, name) is not None
    namespace: dict[str, object] = {}
    exec("from alphabar import *", namespace)
    assert set(PUBLIC) <= set(namespace)


def test_what_type_checkers_see_is_what_is_imported():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(PUBLIC) - {"__version__"}
    for name, home in alphabar._HOME_OF.items():
        assert seen[name] == f"alphabar.{home}", name
    for name, home in alphabar._MODULES.items():
        assert f"{seen[name]}.{name}" == f"alphabar.{home}", name


def test_an_unknown_public_name_is_an_attribute_error():
    assert not hasattr(alphabar, "GaussianDiffusion")


def test_importing_the_package_loads_no_torch():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    eager = [name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for _, name in imported(node)]
    assert {name.split(".")[0] for name in eager} <= {"__future__", "importlib", "typing", "alphabar"}
    code = "import sys, alphabar; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'PIL'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
