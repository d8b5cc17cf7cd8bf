"""A feature network of one's own: named, built, loaded strictly, fingerprinted; every mistake is one line."""

from __future__ import annotations

import re
import sys
import warnings

import pytest
import safetensors.torch
import torch

from alphabar.base.errors import AlphabarError, CheckpointError, ConfigError, DataError, KeyMismatch
from alphabar.evaluation.features.custom import open_custom

CODE = """
import dataclasses
import torch

@dataclasses.dataclass
class Width:
    value: "int" = 4

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, Width().value), torch.nn.Dropout(0.9))
    def forward(self, x):
        return self.net(x)

class Classifier(Net):
    def forward(self, x):
        return self.net(x), self.net(x).sum(1, keepdim=True)

class Nan(Net):
    def forward(self, x):
        return self.net(x) / 0

class Map(Net):
    def forward(self, x):
        return x

class Half(Net):
    def forward(self, x):
        return self.net(x).double()

class Counts(Net):
    def forward(self, x):
        return self.net(x).long()

class Mean(Net):
    def forward(self, x):
        return self.net(x).mean(0, keepdim=True)

class Empty(Net):
    def forward(self, x):
        return self.net(x)[:, :0]

class Words(Net):
    def forward(self, x):
        return {"features": x}

def lazy():
    return torch.nn.LazyLinear(3)

def scripted():
    return torch.jit.trace(Net(), torch.zeros(1, 3, 2, 2))

def number():
    return 3

def wants(argument):
    return Net()

def bad():
    raise ValueError("two\\nlines")

nothing = 3
"""
IMAGES = torch.arange(5 * 12).reshape(5, 3, 2, 2).to(torch.uint8)


@pytest.fixture
def folder(tmp_path):
    """A module, and weights that fit it."""
    (tmp_path / "mynet.py").write_text(CODE)
    generator = torch.Generator().manual_seed(0)
    state = {
        "net.1.weight": torch.randn(4, 12, generator=generator),
        "net.1.bias": torch.randn(4, generator=generator),
    }
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    return tmp_path


def spec(folder, factory: str = "Net") -> str:
    return f"{folder}/mynet.py:{factory}@{folder}/w.safetensors"


def message(raised: type[AlphabarError], text: str, images: torch.Tensor | None = None) -> str:
    """The one line that ``text``, or its use on ``images``, is refused with."""
    net = open_custom(text) if images is not None else None
    with pytest.raises(raised) as caught:
        open_custom(text) if net is None else net(images)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def expected(folder) -> torch.Tensor:
    state = safetensors.torch.load_file(folder / "w.safetensors")
    return (IMAGES.flatten(1) / 127.5 - 1) @ state["net.1.weight"].T + state["net.1.bias"]


# --- what works -------------------------------------------------------------------------------------------------


def test_the_features_are_what_the_module_computes_in_evaluation_mode(folder):
    before = torch.random.get_rng_state()
    net = open_custom(spec(folder))
    values, logits = net(IMAGES)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(values, expected(folder))
    assert logits is None and values.dtype == torch.float32 and not values.requires_grad
    torch.testing.assert_close(net(IMAGES[:1]).values, values[:1])
    assert net.name == f"{folder}/mynet.py:Net" and "own size" in net.resize


def test_a_pair_is_features_and_logits(folder):
    values, logits = open_custom(spec(folder, "Classifier"))(IMAGES)
    torch.testing.assert_close(values, expected(folder))
    torch.testing.assert_close(logits, expected(folder).sum(1, keepdim=True))


def test_features_of_another_precision_become_float32(folder):
    assert open_custom(spec(folder, "Half"))(IMAGES).values.dtype == torch.float32


def test_a_dotted_name_is_imported(folder, monkeypatch):
    package = folder / "package_of_features"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    for name in ("package_of_features", "package_of_features.deep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    net = open_custom(f"package_of_features.deep:Net@{folder}/w.safetensors")
    torch.testing.assert_close(net(IMAGES).values, expected(folder))
    assert net.name == "package_of_features.deep:Net"
    # the same text and weights, wherever they lie
    assert net.sha256 == open_custom(spec(folder)).sha256
    assert "no Python source" in message(ConfigError, f"itertools:count@{folder}/w.safetensors")


def test_signs_of_the_form_may_be_in_paths(folder):
    odd = folder / "a@b:c"
    odd.mkdir()
    for name in ("mynet.py", "w.safetensors"):
        (folder / name).rename(odd / name)
    open_custom(spec(odd))


def test_the_fingerprint_is_of_weights_text_and_factory(folder):
    first = open_custom(spec(folder)).sha256
    assert re.fullmatch("[0-9a-f]{64}", first) and first == open_custom(spec(folder)).sha256
    assert open_custom(spec(folder, "Classifier")).sha256 != first
    (folder / "mynet.py").write_text(CODE + "\n# another\n")
    second = open_custom(spec(folder)).sha256
    state = safetensors.torch.load_file(folder / "w.safetensors")
    safetensors.torch.save_file(state | {"net.1.bias": torch.zeros(4)}, folder / "w.safetensors")
    assert len({first, second, open_custom(spec(folder)).sha256}) == 3


# --- what does not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "mynet", "mynet:Net", "mynet.py@w.safetensors", "a.py:9x@w.safetensors", ":f@w"])
def test_another_form(text):
    assert "MODULE:FACTORY@WEIGHTS.safetensors" in message(ConfigError, text)


def test_no_such_module(folder):
    weights = f"{folder}/w.safetensors"
    assert "No such file" in message(ConfigError, f"{folder}/other.py:Net@{weights}")
    assert "No module named 'no_such_module'" in message(ConfigError, f"no_such_module:Net@{weights}")
    assert "cannot be imported" in message(ConfigError, f"..:Net@{weights}")


@pytest.mark.parametrize("code", ["import no_such_module", "1 +", "raise OSError('a\\nb')", "\0"])
def test_a_module_that_does_not_run(folder, monkeypatch, code):
    (folder / "mynet.py").write_text(code)
    (folder / "broken_features.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "broken_features", raising=False)
    modules = set(sys.modules)
    assert "cannot be run" in message(ConfigError, spec(folder))
    message(ConfigError, f"broken_features:Net@{folder}/w.safetensors")
    assert not [name for name in set(sys.modules) - modules if name.startswith("alphabar_custom")]


@pytest.mark.parametrize(
    ("factory", "what"),
    [
        ("Other", "does not exist"),
        ("nothing", "is not callable"),
        ("number", "returned a int"),
        ("wants", "calling it without arguments failed"),
        ("bad", "ValueError: two"),
        ("lazy", "no shape yet"),
    ],
)
def test_a_factory_that_makes_no_module(folder, factory, what):
    assert what in message(ConfigError, spec(folder, factory))


def test_torchscript_is_refused_as_module_and_as_weights(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        assert "TorchScript" in message(ConfigError, spec(folder, "scripted"))
    (folder / "w.pt").write_bytes(b"")
    assert "TorchScript" in message(ConfigError, f"{folder}/mynet.py:Net@{folder}/w.pt")


def test_weights_that_do_not_fit(folder):
    text = spec(folder)
    state = safetensors.torch.load_file(folder / "w.safetensors")
    for change, what in (
        ({"net.1.weight": torch.zeros(4, 11)}, r"net.1.weight is [4, 11], the model needs [4, 12]"),
        ({"more": torch.zeros(1)}, "more is not part of the model"),
    ):
        safetensors.torch.save_file(state | change, folder / "w.safetensors")
        assert what in message(KeyMismatch, text)
    safetensors.torch.save_file(state | {"net.1.bias": torch.full((4,), torch.nan)}, folder / "w.safetensors")
    assert "non-finite" in message(CheckpointError, text)


def test_bad_weights_are_noticed_before_the_code_runs(folder):
    (folder / "mynet.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    (folder / "w.safetensors").write_bytes(b"garbage")
    assert "not a readable safetensors file" in message(CheckpointError, spec(folder))
    (folder / "w.safetensors").unlink()
    assert "no such file" in message(CheckpointError, spec(folder))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("factory", "what"),
    [
        ("Map", "returned [5, 3, 2, 2] for 5 images, need float [5, D]"),
        ("Mean", "returned [1, 4] for 5 images"),
        ("Empty", "returned [5, 0]"),
        ("Words", "returned dict"),
        ("Counts", "returned torch.int64"),
    ],
)
def test_an_output_of_another_shape(folder, factory, what):
    assert what in message(ConfigError, spec(folder, factory), IMAGES)


def test_images_it_cannot_take(folder):
    assert "failed on images [5, 3, 1, 2]" in message(DataError, spec(folder), IMAGES[:, :, :1])
    assert "not finite" in message(DataError, spec(folder, "Nan"), IMAGES)
    assert "need uint8" in message(ConfigError, spec(folder), IMAGES.float())
