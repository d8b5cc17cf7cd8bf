"""Bad checkpoints and files that are none, all made here: what each breaks, and words of the message it must get.

``DAMAGED`` and ``WRONG`` break a step of a run in place: the first leave the manifest as it was, as an accident does,
the second write one that fits, as another version or an attacker would. ``FOREIGN`` are files, ``FOLDERS`` folders, of
other programs. Whatever can hold code touches the file ``marker`` when it is run.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickle
import random
import shutil
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from alphabar.base import storage
from tiny import reseal

__all__ = ["DAMAGED", "FOLDERS", "FOREIGN", "WRONG", "Mischief", "claiming"]

LARGE = 10**12


class Mischief:
    """Unpickled, it makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


# --- accidents: the manifest is as it was -----------------------------------------------------------------------


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replace the bytes of the file ``name`` of a step."""

    def apply(step: Path) -> None:
        (step / name).write_bytes(change((step / name).read_bytes()))

    return apply


def cut(data: bytes) -> bytes:
    return data[: random.Random(0).randrange(1, len(data))]


def flip(data: bytes) -> bytes:
    place = random.Random(1).randrange(len(data))
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def zero_page(data: bytes) -> bytes:
    place = min(4096, len(data) // 2)
    return data[:place] + bytes(min(4096, len(data) - place)) + data[place + 4096 :]


def of_the_step_before(step: Path) -> None:
    before = min(p for p in step.parent.iterdir() if p.name.startswith("step-"))
    name = "state.json" if before == step else "ema.safetensors"
    shutil.copy(before / name, step / "ema.safetensors")


def manifest(**changes: Any) -> Callable[[Path], None]:
    """Change top-level entries of manifest.json; its own hash, where it has one, goes, as in the first manifests."""

    def apply(step: Path) -> None:
        path = step / "manifest.json"
        content = {**json.loads(path.read_text()), **changes}
        content.pop("sha256", None)
        path.write_text(json.dumps(content))

    return apply


def list_file(step: Path, name: str, size: int) -> None:
    """List the file ``name`` of this size in the manifest."""
    listed = json.loads((step / "manifest.json").read_text())["files"]
    manifest(files={**listed, name: {"bytes": size, "sha256": ""}})(step)


def becomes_pipe(name: str) -> Callable[[Path], None]:
    """Put a FIFO, at which a reader waits for ever, in the place of a file, and list it as empty."""

    def apply(step: Path) -> None:
        (step / name).unlink()
        os.mkfifo(step / name)
        if name != "manifest.json":
            list_file(step, name, 0)

    return apply


def becomes_device(step: Path) -> None:
    (step / "manifest.json").unlink()
    (step / "manifest.json").symlink_to("/dev/zero")


def becomes_folder(step: Path) -> None:
    (step / "ema.safetensors").unlink()
    (step / "ema.safetensors").mkdir()
    list_file(step, "ema.safetensors", (step / "ema.safetensors").stat().st_size)


def extra(step: Path) -> None:
    (step / "more\x1b[2J.txt").write_text("x")


DAMAGED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "empty weights": (edit("ema.safetensors", lambda data: b""), ["ema.safetensors", "0 bytes"]),
    "weights cut": (edit("ema.safetensors", cut), ["ema.safetensors", "bytes, the manifest says"]),
    "one bit": (edit("ema.safetensors", flip), ["ema.safetensors", "SHA-256"]),
    "zero page": (edit("ema.safetensors", zero_page), ["ema.safetensors", "SHA-256"]),
    "weights of another step": (of_the_step_before, ["ema.safetensors"]),
    "file missing": (lambda step: (step / "state.json").unlink(), ["state.json", "missing"]),
    "file added": (extra, [r"more\x1b[2J.txt", "not in the manifest"]),
    "no manifest": (lambda step: (step / "manifest.json").unlink(), ["manifest.json"]),
    "manifest no JSON": (edit("manifest.json", lambda data: data[:-9]), ["manifest.json", "JSON"]),
    "manifest of deep lists": (edit("manifest.json", lambda data: b"[" * 100_000), ["manifest.json", "JSON"]),
    "manifest of a list": (edit("manifest.json", lambda data: b"[1]"), ["manifest.json", "not a manifest"]),
    "manifest too large": (
        edit("manifest.json", lambda data: data + b" " * storage.MAX_JSON_BYTES),
        ["manifest.json", "larger than"],
    ),
    "manifest of a newer format": (
        manifest(format=2, alphabar="9.0\x1b[31m"),
        ["manifest.json", r"made by alphabar 9.0\x1b[31m in format 2", "this is alphabar"],
    ),
    "manifest of a format without end": (manifest(format="x" * 10**6), ["manifest.json", "made by alphabar"]),
    "manifest of strange sizes": (
        manifest(files={"ema.safetensors": {"bytes": "\x1b[31m", "sha256": None}}),
        ["is not in the manifest"],
    ),
    "manifest that leads outside": (lambda step: list_file(step, "../../secret", 1), ["secret", "is missing"]),
    "manifest that leads to a fixed place": (
        lambda step: list_file(step, "/etc/hostname", 1),
        ["hostname", "is missing"],
    ),
    "pipe for the manifest": (becomes_pipe("manifest.json"), ["manifest.json", "no regular file"]),
    "pipe for the weights": (becomes_pipe("ema.safetensors"), ["ema.safetensors", "no regular file"]),
    "device for the manifest": (becomes_device, ["manifest.json", "no regular file"]),
    "folder for the weights": (becomes_folder, ["ema.safetensors", "no regular file"]),
}


# --- attacks and other versions: the manifest fits --------------------------------------------------------------


def sealed(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """``change``, after which the manifest fits again."""

    def apply(step: Path) -> None:
        change(step)
        reseal(step)

    return apply


def model(**changes: Any) -> Callable[[Path], None]:
    """Change entries of model.json; a dict changes the entries below."""

    def apply(step: Path) -> None:
        content = json.loads((step / "model.json").read_text())
        for key, value in changes.items():
            content[key] = {**content[key], **value} if isinstance(value, dict) else value
        (step / "model.json").write_text(json.dumps(content))

    return sealed(apply)


def weights(change: Callable[[dict[str, torch.Tensor]], object], *names: str) -> Callable[[Path], None]:
    """Change tensors of ``names`` (by default the average and the raw weights)."""

    def apply(step: Path) -> None:
        for name in names or ("ema", "net"):
            path = step / f"{name}.safetensors"
            tensors = safetensors.torch.load_file(path)
            change(tensors)
            path.write_bytes(safetensors.torch.save(tensors))

    return sealed(apply)


def header(entries: bytes | dict[str, Any], body: bytes) -> Callable[[Path], None]:
    """Replace the weights by a safetensors file with this header and body."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return sealed(edit("ema.safetensors", lambda data: struct.pack("<Q", len(text)) + text + body))


def state(**changes: Any) -> Callable[[Path], None]:
    """Change entries of state.json."""

    def apply(step: Path) -> None:
        content = json.loads((step / "state.json").read_text())
        (step / "state.json").write_text(json.dumps({**content, **changes}))

    return sealed(apply)


def pickled(step: Path) -> None:
    torch.save({"first.weight": Mischief(step.parent.parent / "marker")}, step / "ema.safetensors")


def fill(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[3].fill_(value)


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = ["ema.safetensors", "not a readable safetensors file"]
DESCRIPTION = ["model.json"]
WRONG: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "NaN": (weights(fill("final.2.weight", float("nan"))), ["non-finite", "final.2.weight"]),
    "infinity": (weights(fill("first.weight", float("-inf"))), ["non-finite", "first.weight"]),
    "shape of another network": (
        weights(lambda t: t.update({"first.weight": torch.zeros(4, 1, 5, 5)})),
        ["first.weight", "[4, 1, 5, 5]", "[4, 1, 3, 3]"],
    ),
    "tensor missing": (
        weights(lambda t: t.pop("first.weight")),
        ["1 tensors missing, 0 unexpected", "first.weight is missing"],
    ),
    "tensor added": (
        weights(lambda t: t.update({"z\x1b[31m\n\u202ez": torch.zeros(1)})),
        ["0 tensors missing, 1 unexpected", r"z\x1b[31m\n\u202ez is not part of the model"],
    ),
    "header without end": (sealed(edit("ema.safetensors", lambda d: struct.pack("<Q", 2**62) + d[8:])), SAFETENSORS),
    "overlap": (header({"a": A, "b": {**A, "data_offsets": [4, 12]}}, bytes(12)), SAFETENSORS),
    "hole": (header({"a": A, "b": {**A, "data_offsets": [12, 20]}}, bytes(20)), SAFETENSORS),
    "trailing bytes": (header({"a": A}, bytes(9)), SAFETENSORS),
    "duplicate key": (header(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), bytes(8)), ["ema.safetensors"]),
    "pickle for weights": (sealed(pickled), SAFETENSORS),
    "newer description": (model(format=2), ["model.json", "format 2", "this is alphabar"]),
    "description of nothing": (sealed(edit("model.json", lambda data: b"{}")), DESCRIPTION),
    "description of deep lists": (sealed(edit("model.json", lambda data: b"[" * 100_000)), DESCRIPTION),
    "description with a number without end": (
        sealed(edit("model.json", lambda data: data.replace(b'"T": 8', b'"T": ' + b"8" * 5000))),
        DESCRIPTION,
    ),
    "width without end": (model(net={"base_channels": 65536, "base_channels_multiples": [4096]}), ["tensors", "first"]),
    "blocks without end": (model(net={"num_res_blocks": 10**9}), [*DESCRIPTION, "num_res_blocks"]),
    "levels without end": (
        model(net={"base_channels_multiples": [1] * 5000, "apply_attention": [False] * 5000}),
        [*DESCRIPTION, "base_channels_multiples"],
    ),
    "classes without end": (model(net={"num_classes": 2**60}), [*DESCRIPTION, "num_classes"]),
    "table without end": (model(net={"total_time_steps": 2**60}), [*DESCRIPTION, "total_time_steps"]),
    "image without end": (model(shape=[1, 2**40, 2**40]), [*DESCRIPTION, "too large"]),
    "negative image": (model(shape=[1, -8, -8]), DESCRIPTION),
    "time without end": (model(schedule={"T": 10**12}), [*DESCRIPTION, "T"]),
    "name of a function": (model(prediction={"kind": "os.system"}), [*DESCRIPTION, "os.system"]),
    "clip that is no number": (model(clip=float("nan")), DESCRIPTION),
}

# what only continuing the run reads
STATE: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "state of another step": (state(step=9), ["step-000000004"]),
    "step that is text": (state(step="4\x1b[31m"), ["state.json", "step"]),
    "state of a list": (sealed(edit("state.json", lambda data: b"[]")), ["state.json"]),
    "state without images": (state(data=None), ["state.json", "data"]),
    "lines that are text": (state(metrics_lines="many"), ["state.json", "metrics_lines"]),
}
RESUMED: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    **STATE,
    "NaN in the optimiser": (
        weights(fill("exp_avg.first.weight", float("nan")), "optimizer"),
        ["optimizer", "non-finite", "exp_avg.first.weight"],
    ),
    "optimiser without a moment": (
        weights(lambda t: t.pop("exp_avg_sq.first.weight"), "optimizer"),
        ["optimizer", "first.weight"],
    ),
    "optimiser of another shape": (
        weights(lambda t: t.update({"exp_avg.first.weight": torch.zeros(3)}), "optimizer"),
        ["optimizer", "first.weight"],
    ),
    "optimiser of whole numbers": (
        weights(lambda t: t.update({"step.first.weight": torch.tensor(3)}), "optimizer"),
        ["optimizer", "first.weight"],
    ),
    "optimiser of another kind": (
        weights(lambda t: t.update({"momentum.first.weight": torch.zeros(4, 1, 3, 3)}), "optimizer"),
        ["optimizer", "first.weight"],
    ),
}


# --- files of other programs ------------------------------------------------------------------------------------


def torch_file(value: object, **how: Any) -> Callable[[Path, Path], None]:
    return lambda path, marker: torch.save(value, path, **how)


def evil(save: Callable[[object, Path], object]) -> Callable[[Path, Path], None]:
    return lambda path, marker: save({"first.weight": torch.zeros(1), "more": Mischief(marker)}, path) and None


def raw(data: bytes) -> Callable[[Path, Path], None]:
    return lambda path, marker: path.write_bytes(data) and None


def torchscript(path: Path, marker: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its archives remain
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))


class _Storage:
    """Pickled by :func:`claiming` as a reference to stored bytes."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers


class _Tensor:
    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        shape = (self.numbers,)
        return torch._utils._rebuild_tensor_v2, (
            _Storage(self.numbers),
            0,
            shape,
            (1,),
            False,
            collections.OrderedDict(),
        )


def claiming(numbers: int, *, old: bool) -> bytes:
    """A pickle of one tensor that says it has so many numbers, in the form of either format of torch.save."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if not isinstance(value, _Storage):
                return None
            return ("storage", torch.FloatStorage, "0", "cpu", value.numbers, *([None] if old else []))

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"first.weight": _Tensor(numbers)})
    return buffer.getvalue()


def archive(numbers: int, body: bytes, how: int) -> Callable[[Path, Path], None]:
    def save(path: Path, marker: Path) -> None:
        with zipfile.ZipFile(path, "w", how) as file:
            file.writestr("x/data.pkl", claiming(numbers, old=False))
            file.writestr("x/byteorder", "little")
            file.writestr("x/data/0", body)
            file.writestr("x/version", "3\n")

    return save


def old_claim(path: Path, marker: Path) -> None:
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, sizes)]
    parts += [claiming(LARGE, old=True), pickle.dumps(["0"], 2), struct.pack("<q", LARGE), bytes(16)]
    path.write_bytes(b"".join(parts))


def tar(path: Path, marker: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Mischief(marker))
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


def zipped(**members: bytes) -> Callable[[Path, Path], None]:
    def save(path: Path, marker: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)

    return save


PICKLE = "Python pickle"
NAMESPACE = {"args": argparse.Namespace(lr=1), "loss": np.float64(3.0), "first.weight": torch.zeros(1)}
# name -> (how to make the file at the first path, with code that makes the second; what it must be called; what it is
# called when it is given as weights to torch's reader)
FOREIGN: dict[str, tuple[Callable[[Path, Path], None], str, str]] = {
    "empty": (raw(b""), "empty file", "empty file"),
    "state dict": (torch_file({"a": torch.zeros(1)}), PICKLE, "tensors missing"),
    "code": (evil(torch.save), PICKLE, "needs code"),
    "code, old format": (
        evil(lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False)),
        PICKLE,
        "needs code",
    ),
    "namespace and numpy": (torch_file(NAMESPACE), PICKLE, "argparse.Namespace, numpy."),
    "more numbers than bytes": (torch_file({"a": torch.zeros(1).expand(LARGE)}), PICKLE, "claims 4,000,000,000,000"),
    "record too short": (archive(LARGE, bytes(4), zipfile.ZIP_STORED), PICKLE, "not a readable torch file"),
    "record too short, old format": (old_claim, PICKLE, "more memory than there is"),
    "compressed zeros": (archive(25 * 10**5, bytes(10**7), zipfile.ZIP_DEFLATED), PICKLE, "claim to unpack to"),
    "whole module": (torch_file(torch.nn.Linear(2, 2)), PICKLE, "torch.nn.modules.linear.Linear"),
    "TorchScript": (torchscript, "TorchScript archive", "TorchScript archive"),
    "pickle of EDM": (evil(lambda value, path: path.write_bytes(pickle.dumps(value))), PICKLE, "not a readable torch"),
    "tar": (tar, "tar archive", "tar archive"),
    "HTML": (raw(b"<!DOCTYPE html><html>404 Not Found</html>"), "HTML page", "HTML page"),
    "LFS": (
        raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git lfs pull",
        "git lfs pull",
    ),
    "PNG": (raw(b"\x89PNG\r\n\x1a\n" + bytes(40)), "picture", "picture"),
    "zip": (zipped(**{"a.txt": b"hello"}), "zip archive without", "zip archive without"),
    "cut zip": (raw(b"PK\3\4" + bytes(60)), "damaged or cut zip archive", "damaged or cut zip archive"),
    "TensorFlow index": (raw(bytes(60) + bytes.fromhex("57fb808b247547db")), "TensorFlow", "TensorFlow"),
    "Keras": (raw(b"\x89HDF\r\n\x1a\n" + bytes(60)), "HDF5", "HDF5"),
    "safetensors": (raw(safetensors.torch.save({"a": torch.zeros(1)})), "weights alone", "not a readable torch file"),
    "text": (raw(b"hello\n"), "text file", "text file"),
    "zeros": (raw(bytes(100)), "zero bytes", "zero bytes"),
    "noise": (raw(b"\xfe\x1b[31m\n"), "fe 1b 5b 33", "fe 1b 5b 33"),
}


def dcp(folder: Path, marker: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Mischief(marker)))
    (folder / "__0_0.distcp").write_bytes(pickle.dumps(Mischief(marker)))


def tensorflow(folder: Path, marker: Path) -> None:
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    (folder / "model.ckpt-1.index").write_bytes(bytes(60) + bytes.fromhex("57fb808b247547db"))


def diffusers(folder: Path, marker: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Mischief(marker)))


FOLDERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "torch.distributed": (dcp, "torch.distributed"),
    "TensorFlow": (tensorflow, "TensorFlow"),
    "SavedModel": (lambda folder, marker: (folder / "saved_model.pb").write_bytes(b"\x08\x01") and None, "SavedModel"),
    "diffusers": (diffusers, "diffusers"),
    "empty": (lambda folder, marker: None, "no finished checkpoint"),
}
