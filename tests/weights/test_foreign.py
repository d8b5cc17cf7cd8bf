"""Weight files of other programs: tensors come out or a one-line error, and nothing in a file ever runs."""

from __future__ import annotations

import collections
import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from alphabar.base.errors import CheckpointError, UnknownFormat
from alphabar.weights.foreign import read_state

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "count": torch.tensor(7),
}


def legacy(value, path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def table(value, path) -> None:
    safetensors.torch.save_file(value, path)


WRITERS = {"x.safetensors": table, "x.pt": torch.save, "x.PTH": legacy, "pytorch_model.bin": torch.save}


class Mischief:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path: Path, kind: type[CheckpointError] = CheckpointError) -> str:
    """The message with which ``path`` is refused: one line that names it."""
    with pytest.raises(kind) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1 and len(message) < len(str(path)) + 300
    return message


# --- what is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_tensors_and_digest_of_every_format(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](TENSORS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for given in (None, digest):
        state, found = read_state(path, given)
        assert found == digest and state.keys() == TENSORS.keys()
        for key, tensor in state.items():
            assert tensor.dtype == TENSORS[key].dtype and torch.equal(tensor, TENSORS[key])


def test_the_state_dict_of_a_module_with_parameters(tmp_path):
    module = torch.nn.BatchNorm1d(3)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save(collections.OrderedDict(module.named_parameters()), tmp_path / "parameters.pt")
    state, _ = read_state(tmp_path / "state.pt")
    assert type(state) is dict and state.keys() == module.state_dict().keys()
    state, _ = read_state(tmp_path / "parameters.pt")
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in state.values())


def test_another_digest_is_refused_before_anything_is_decoded(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"nothing")
    given, found = "ab" * 32, hashlib.sha256(b"nothing").hexdigest()
    with pytest.raises(CheckpointError, match=f"SHA-256 is {found[:12]}…, need {given[:12]}…"):
        read_state(path, given)


def test_a_suffix_that_is_not_known(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    assert ".safetensors, .pt, .pth, .bin" in refused(tmp_path / "net.onnx", UnknownFormat)


# --- what is not executed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [torch.save, legacy, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_never_run(tmp_path, save):
    path, made = tmp_path / "x.pt", tmp_path / "made"
    save({**TENSORS, "more": Mischief(made)}, path)
    message = refused(path)
    assert not made.exists()
    if save is torch.save:
        assert "needs code" in message
        torch.load(path, weights_only=False)
        assert made.exists()  # the file was dangerous


def test_a_whole_module_needs_code(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    message = refused(tmp_path / "module.pt")
    assert "needs code" in message and "torch.nn.modules.linear.Linear" in message and "state_dict()" in message


def test_a_torchscript_archive_is_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its archives remain
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "traced.pt"))
    message = refused(tmp_path / "traced.pt")
    assert "TorchScript" in message and "contains code" in message


def test_tensors_beside_code_are_torchscript_all_the_same(tmp_path):
    path = tmp_path / "inception-2015-12-05.pt"
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("inception-2015-12-05/code/__torch__.py", "raise SystemExit")
    assert "TorchScript" in refused(path)


# --- what is damaged --------------------------------------------------------------------------------------------


def test_no_file_and_a_folder(tmp_path):
    assert "no such file" in refused(tmp_path / "x.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "not a file" in refused(tmp_path / "folder.pt")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"PK\3\4", b"\x80\x02.", b"<html>not found</html>"])
def test_garbage(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path / name)
    assert "not a readable" in message and "weights_only" not in message


@pytest.mark.parametrize("name", WRITERS)
def test_every_truncation_is_noticed(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](TENSORS, path)
    data = path.read_bytes()
    for length in range(0, len(data), 1 + len(data) // 60):
        path.write_bytes(data[:length])
        refused(path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_flipped_bit_gives_tensors_or_one_error(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](TENSORS, path)
    data = path.read_bytes()
    for position in range(0, len(data), 1 + len(data) // 150):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            state, _ = read_state(path)
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


# --- what is not a table of tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"state_dict": TENSORS}, "'state_dict' is a dict"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({3: torch.zeros(1)}, "'3' is a Tensor"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({"a": torch.eye(2).to_sparse()}, "a is not a dense tensor"),
        ({"a": torch.zeros(2, device="meta")}, "a is not a dense tensor"),
    ],
    ids=["nested", "number", "key", "list", "tensor", "sparse", "meta"],
)
def test_anything_else_is_refused(tmp_path, value, what):
    torch.save(value, tmp_path / "x.pt")
    assert what in refused(tmp_path / "x.pt")
