"""What SECURITY.md promises of the code itself, of the files that a run leaves, and of the network."""

from __future__ import annotations

import ast
import inspect
import json
import os
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import alphabar
from alphabar.cli.main import main
from refusal import refused
from tiny import SETTINGS, npz

PACKAGE = Path(alphabar.__file__).parent
ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"

# --- the code ---------------------------------------------------------------------------------------------------

UNPICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "joblib",
    "cloudpickle",
    "marshal",
    "shelve",
    "yaml",
    "jsonpickle",
}
NETWORK = {"socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "huggingface_hub"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub",
    "torch.package",
    "torch.serialization.add_safe_globals",
    "torch.serialization.safe_globals",
}
# (file, what) that are allowed, and why
ALLOWED = {
    ("data/sources/cifar.py", "import pickle"),  # an unpickler that knows plain arrays and nothing else
    ("weights/foreign.py", "import pickle"),  # the name of an error
    ("weights/foreign.py", "torch.load"),  # the one reader of torch files
    ("evaluation/features/custom.py", "exec"),  # runs the file that the user named on the command line
    ("evaluation/features/custom.py", "compile"),
}


def findings(tree: ast.AST) -> Iterator[str]:
    """Everything in a syntax tree that can execute what is in a file, start a shell, or reach the network."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in UNPICKLERS | NETWORK:
                yield f"import {name.split('.')[0]}"
            if name in ATTRIBUTES or name in {f"builtins.{call}" for call in CALLS}:
                yield name
        if isinstance(node, ast.Attribute) and (dotted := ast.unparse(node)) in ATTRIBUTES:
            yield dotted
        if isinstance(node, ast.Attribute) and node.attr in {"add_safe_globals", "safe_globals"}:
            yield node.attr
        # a field that is called compile is not the builtin; whoever uses the name means it
        if isinstance(node, ast.Name) and node.id in CALLS and isinstance(node.ctx, ast.Load):
            yield node.id
        if isinstance(node, ast.Call):
            for word in node.keywords:
                value = word.value.value if isinstance(word.value, ast.Constant) else "?"
                if (word.arg, value) in {("shell", True), ("allow_pickle", True), ("weights_only", False)}:
                    yield f"{word.arg}={value}"
                if word.arg in {"shell", "allow_pickle", "weights_only"} and value == "?":
                    yield f"{word.arg} that depends"


def files_of(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_nothing_in_the_package_executes_what_it_reads():
    assert {(name, what) for name, tree in files_of(PACKAGE) for what in findings(tree)} == ALLOWED


def test_nothing_in_the_scripts_executes_what_it_reads():
    if not SCRIPTS.is_dir():
        pytest.skip("an installed package has no scripts")
    # one checks the syntax of a mutant
    assert {(name, what) for name, tree in files_of(SCRIPTS) for what in findings(tree)} <= {("mutants.py", "compile")}


def calls_of(dotted: str) -> list[tuple[str, dict[str, str]]]:
    return [
        (name, {word.arg: ast.unparse(word.value) for word in node.keywords})
        for name, tree in files_of(PACKAGE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == dotted
    ]


def test_torch_files_are_read_in_one_place_and_only_for_their_tensors():
    ((name, how),) = calls_of("torch.load")
    assert name == "weights/foreign.py" and how["weights_only"] == "True"


def test_numpy_files_are_read_without_their_pickles():
    """Numpy's default, which ``findings`` keeps anybody from changing."""
    assert inspect.signature(np.load).parameters["allow_pickle"].default is False
    assert calls_of("np.load") and {how.get("allow_pickle", "False") for _, how in calls_of("np.load")} == {"False"}


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "import pickle"),
        ("def f():\n    from pickle import loads", "import pickle"),
        ("import os\nos.system('x')", "os.system"),
        ("from os import system", "os.system"),
        ("import torch\ntorch.load(f, weights_only=False)", "weights_only=False"),
        ("torch.load(f, weights_only=flag)", "weights_only that depends"),
        ("load = torch.load", "torch.load"),
        ("from torch import load", "torch.load"),
        ("torch.serialization.add_safe_globals([X])", "add_safe_globals"),
        ("np.load(f, allow_pickle=True)", "allow_pickle=True"),
        ("subprocess.run('x', shell=True)", "shell=True"),
        ("run = eval", "eval"),
        ("from yaml import load", "import yaml"),
        ("import urllib.request", "import urllib"),
    ],
)
def test_the_walk_finds_what_is_forbidden(code, what):
    assert what in set(findings(ast.parse(code)))


# --- what a run writes, and the network -------------------------------------------------------------------------

# Runs commands one after the other in one process, in which a connection to anywhere but this machine, a look-up of a
# name and a shell raise an error and are written down.
AUDITED = """
import json, sys

found = []

def is_here(address):
    host = address[0] if isinstance(address, tuple) else address
    return not isinstance(address, tuple) or host in ("127.0.0.1", "::1")

def forbid(what):
    found.append(what)
    raise PermissionError("forbidden in this test: " + what)

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if not is_here(arguments[1]):
            forbid(f"{event} {arguments[1]!r}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"):
        if arguments[0] not in ("127.0.0.1", "::1", "localhost", None):
            forbid(f"{event} {arguments[0]!r}")
    elif event in ("os.system", "os.exec", "pty.spawn"):
        forbid(f"{event} {arguments[0]!r}")
    elif event in ("subprocess.Popen", "os.posix_spawn"):
        program = str(arguments[0]).rpartition("/")[2]
        if program in ("sh", "bash", "dash", "zsh", "ksh", "env"):
            forbid(f"{event} {arguments[1]!r}")

sys.addaudithook(hook)
"""
COMMANDS = """
from alphabar.cli.main import main

codes = []
for line in sys.stdin:
    arguments = json.loads(line)
    print(">", *arguments, file=sys.stderr, flush=True)
    codes.append(main(arguments))
json.dump({"codes": codes, "found": found}, open(sys.argv[1], "w"))
"""


def audited(code: str, folder: Path, commands: list[list[str]]) -> dict[str, list]:
    """What happened when ``code`` ran in ``folder`` under the hook, reading ``commands`` line by line."""
    text = "".join(json.dumps(command) + "\n" for command in commands)
    environment = {**os.environ, "ALPHABAR_CACHE": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "matplotlib")}
    ran = subprocess.run(
        [sys.executable, "-c", AUDITED + code, "report.json"],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return {**json.loads((folder / "report.json").read_text()), "said": ran.stderr}


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A folder in which every command was used once under the hook."""
    root = tmp_path_factory.mktemp("used")
    npz(root / "tiny.npz", labels=2)
    few = ["-n", "4", "--steps", "2"]
    commands = [
        ["train", "tiny.npz", "--out", "run", *SETTINGS, "--steps", "2", "run.save_every=1"],
        ["train", "tiny.npz", "--out", "run", *SETTINGS, "--steps", "3", "run.save_every=1"],
        ["train", "tiny.npz", "--dry-run", *SETTINGS],
        ["sample", "run", *few, "--animate"],
        ["evaluate", "run", "--metrics", "bpd,fid,kid,pr,copies", "--features", "random-conv", *few],
        ["evaluate", "run", "--metrics", "fid", "--features", "inception", *few],
        ["figures", "run", "--only", "schedule,forward,nearest,interpolation", *few],
        ["inspect", "run"],
        ["equations"],
        ["classifier", "tiny.npz", "--name", "two", "--epochs", "1"],
        ["evaluate", "run", "--metrics", "is", "--features", "two", *few],
        ["sample", "https://example.org/model.pt"],
        ["train", "https://example.org/images.zip"],
        ["--version"],
        ["--help"],
    ]
    result = audited(COMMANDS, root, commands)
    # no Inception weights are there (and none are fetched); the last two names are of the network, not of files
    assert result["codes"] == [0] * 5 + [2] + [0] * 5 + [4, 3, 0, 0], result["said"]
    (root / "found.json").write_text(json.dumps(result["found"]))
    return root


@pytest.mark.slow
def test_no_command_reaches_the_network_or_a_shell(used):
    assert json.loads((used / "found.json").read_text()) == []


@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80))", "192.0.2.1"),
        ("import socket; socket.socket().connect(('192.0.2.1', 80))", "socket.connect"),
        ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "sendto"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "example.org"),
        ("import urllib.request; urllib.request.urlopen('http://example.org')", "urllib.Request"),
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.run('true', shell=True)", "subprocess.Popen"),
    ],
)
def test_the_hook_notices_and_stops(tmp_path, attempt, what):
    code = f"""
try:
    {attempt}
except PermissionError:
    pass
else:
    found.clear()
json.dump({{"found": found}}, open(sys.argv[1], "w"))
"""
    (found,) = audited(code, tmp_path, [])["found"]
    assert what in found


def test_the_hook_lets_this_machine_talk_to_itself(tmp_path):
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
json.dump({"found": found}, open(sys.argv[1], "w"))
"""
    assert audited(code, tmp_path, [])["found"] == []


def is_pickle(data: bytes) -> bool:
    """Whether ``data`` is a whole pickle of any protocol with more than one instruction before its end."""
    try:
        return sum(1 for _ in pickletools.genops(data)) > 1
    except Exception:
        return False


@pytest.mark.slow
def test_nothing_that_is_written_is_a_pickle(used):
    kinds = set()
    for path in used.rglob("*"):
        if not path.is_file() or "matplotlib" in path.parts:
            continue
        data = path.read_bytes()
        kinds.add(path.suffix or path.name)
        assert not is_pickle(data), path
        if data.startswith(b"PK"):
            assert path.suffix == ".npz", f"{path}: an archive that is none of numpy's"
            with np.load(path) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files), path
    assert {".safetensors", ".json", ".jsonl", ".toml", ".png", ".gif", ".webp", ".part", ".npz", ".html"} <= kinds


def test_a_pickle_would_be_noticed():
    import pickle

    assert all(is_pickle(pickle.dumps({"a": [1, 2]}, protocol)) for protocol in range(6))
    assert not is_pickle(b'{"a": 1}') and not is_pickle(b"")


# --- limits of a config -----------------------------------------------------------------------------------------

DEEP = "{a=" * 30 + "1" + "}" * 30
CONFIGS = {
    "a megabyte": ("#" * 1_000_001, ["more than 1000000 bytes"]),
    "lists in lists": ("x = " + "[" * 20_000, ["TOML"]),
    "tables in tables": (f"[run]\nbatch = {DEEP}\n", ["nested"]),
    "lists below a key": ("[run]\nbatch = " + "[" * 40 + "]" * 40 + "\n", ["nested"]),
    "dots in a key": ("run" + ".a" * 300_000 + " = 1\n", ["key of more than 8 parts"]),
    "dots in a quoted key": ('run."a b"' + '."a b"' * 50_000 + " = 1\n", ["key of more than 8 parts"]),
    "dots in a header": ("[run" + ". a" * 100_000 + "]\n", ["key of more than 8 parts"]),
    "dots after a string": ('x = "\\""\nrun' + ".a" * 300_000 + " = 1\n", ["key of more than 8 parts"]),
    "dots after five quotes": ('x = {y = """a""""", run' + ".a" * 300_000 + " = 1}\n", ["key of more than 8 parts"]),
    "quotes without end": ('\\"""' * 240_000, ["TOML"]),
    "a number of a million digits": ("seed = " + "9" * 900_000, ["TOML"]),
    "a number of 4,000 digits": ("[run]\nbatch = " + "9" * 4000, ["run.batch"]),
    "a number that only floats hold": ("[ema]\nhalflife_images = " + "9" * 400, ["ema.halflife_images"]),
    "not a number": ("[optim]\nlr = nan\n", ["optim.lr"]),
    "infinity": ("[denoiser]\nclip = inf\n", ["denoiser.clip"]),
    "an include": ('include = "/etc/passwd"\n', ["include", "unknown section"]),
    "an environment variable": ('[run]\nbatch = "$HOME"\n', ["run.batch", "$HOME"]),
    "a long value": ('[run]\nprecision = "' + "x" * 100_000 + '"\n', ["run.precision"]),
    "a network without end": (
        "[net]\nbase_channels_multiples = [1" + ", 1" * 5000 + "]\n",
        ["base_channels_multiples"],
    ),
    "blocks without end": ("[net]\nnum_res_blocks = 1000000000\n", ["num_res_blocks"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_limits_of_a_config(tmp_path, monkeypatch, capsys, name):
    content, words = CONFIGS[name]
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "tiny.npz")
    (tmp_path / "x.toml").write_text(content)
    message = refused(capsys, ["train", "tiny.npz", "--out", "new", "--config", "x.toml"], 2, *words)
    assert len(message) < 700


def test_a_config_without_end_is_not_read_to_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "tiny.npz")
    refused(capsys, ["train", "tiny.npz", "--out", "new", "--config", "/dev/zero"], 2, "more than 1000000 bytes")


def test_dots_that_are_no_keys_are_counted_as_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "tiny.npz")
    (tmp_path / "x.toml").write_text(
        f"# a.b.c.d.e.f.g.h.i.j.k\n[schedule]\nkind = 'betas'\nvalues = [{', '.join(['0.5'] * 20)}]\n"
        "[data]\nsource = '/data/a.b.c.d.e.f.g.h.i.j.k'\n"
    )
    settings = [word for word in SETTINGS if not word.startswith("schedule")]
    assert main(["train", "tiny.npz", "--config", "x.toml", "--dry-run", *settings]) == 0


@pytest.mark.parametrize(
    "assignment",
    [
        "run.batch=4\nx=3",
        f"run.batch={DEEP}",
        "run.batch=" + "[" * 20_000,
        "run.batch=" + "9" * 5000,
        "seed=" + "9" * 4000,
    ],
    ids=["two lines", "tables", "lists", "5,000 digits", "4,000 digits"],
)
def test_limits_of_a_setting(tmp_path, monkeypatch, capsys, assignment):
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "tiny.npz")
    message = refused(capsys, ["train", "tiny.npz", "--out", "new", *SETTINGS, assignment], 2)
    assert ("run.batch" in message or "seed" in message) and len(message) < 400
