"""Weight files made by other programs, read without executing anything that is in them.

A safetensors file holds tensors and nothing else. A file of ``torch.save`` is a pickle, which may call any function of
any module; torch's weights-only unpickler follows the few instructions that rebuild tensors and refuses the rest. A
TorchScript archive is a program. The file is read once, so the bytes whose SHA-256 is returned are the bytes that were
decoded.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from alphabar.base.errors import CheckpointError, UnknownFormat, printable
from alphabar.weights.kinds import is_torchscript, kind_of, torch_records

__all__ = ["read_state"]

# how the weights-only unpickler words its refusal of a function or class, as opposed to bytes that make no sense
NEEDS_CODE = re.compile(r"GLOBAL (\S+)|Trying to call|Can only (?:create|build)|must be imported")


def read_state(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of the weight file ``path``, on the CPU, and the SHA-256 of its bytes (64 hex digits).

    Read are ``.safetensors`` and, of a flat table from names to tensors, ``.pt``, ``.pth`` and ``.bin`` as
    ``torch.save(module.state_dict(), …)`` writes them, of any version of torch. No code is executed. Values are not
    checked: whoever copies them into a network does that.

    Args:
        path: the file; its suffix says which of the two formats it is.
        sha256: the digest that it must have (64 lower-case hex digits); None takes any.

    Raises:
        CheckpointError: if there is no such file, it is damaged, has another digest, needs code to be loaded, is a
            TorchScript archive, or holds anything but dense tensors under names.
    """
    where = printable(path)
    decode = READERS.get(path.suffix.lower())
    if decode is None:
        raise UnknownFormat(f"{where}: weights are read from {', '.join(READERS)} files; save the state dict as one")
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"{where}: SHA-256 is {digest[:12]}…, need {sha256[:12]}…; the file is damaged or another: fetch it again"
        )
    return _table(decode(data, path), where), digest


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{printable(path)}: {'not a' if path.exists() else 'no such'} file; give a weight file")
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{printable(path)}: not readable ({_reason(error)})") from error


def _safetensors(data: bytes, path: Path) -> object:
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # whatever a damaged header leads to
        raise CheckpointError(f"{printable(path)}: not a readable safetensors file ({_found(path, error)})") from error


def _torch(data: bytes, path: Path) -> object:
    where = printable(path)
    _check_archive(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of a pickle; what is wrong with it, the error says
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # damaged bytes can derail the unpickler anywhere
        refused = NEEDS_CODE.search(str(error))
        if refused:
            wanted = _globals(data) or [name for name in refused.groups() if name]
            what = f" ({printable(', '.join(wanted))[:200]})" if wanted else ""
            raise CheckpointError(
                f"{where}: needs code to be loaded{what}, and code in a file is never run; save the state dict alone, "
                "as .safetensors or with torch.save(module.state_dict(), ...)"
            ) from error
        raise CheckpointError(f"{where}: not a readable torch file ({_found(path, error)})") from error


READERS: Mapping[str, Callable[[bytes, Path], object]] = {
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
}


def _check_archive(data: bytes, where: str) -> None:
    """Refuse an archive that holds a program, or that grows when it is unpacked; torch never compresses.

    Raises:
        CheckpointError: saying which of the two it is.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception:  # not an archive, or a damaged one: the reader will say so
        return
    if is_torchscript(torch_records([entry.filename for entry in entries])):
        raise CheckpointError(
            f"{where}: is a TorchScript archive, which contains code and is not run; give a state dict "
            "(.safetensors, or torch.save(module.state_dict(), ...))"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > len(data):
        raise CheckpointError(
            f"{where}: {len(data):,} bytes that claim to unpack to {unpacked:,}, which torch.save never writes; get "
            "the file from its source again"
        )


def _globals(data: bytes) -> list[str]:
    """The functions and classes that a pickle of torch asks for beyond those that rebuild tensors, found by reading."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except Exception:  # of the old format, or damaged
        return []


def _table(value: object, where: str) -> dict[str, Tensor]:
    """``value`` as names and plain tensors.

    Raises:
        CheckpointError: if it is anything else.
    """
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{where}: holds a {type(value).__name__}, need a table from names to tensors (state dict)"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{where}: {printable(name)!r} is a {type(tensor).__name__}, need a table from names to tensors; save "
                "the state dict alone"
            )
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{where}: {printable(name)} is not a dense tensor; save it as float32")
        claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claimed > held:
            raise CheckpointError(
                f"{where}: {printable(name)} claims {claimed:,} bytes where the file holds {held:,}; save it with "
                ".contiguous()"
            )
    return {name: tensor.detach() for name, tensor in value.items()}


def _found(path: Path, error: BaseException) -> str:
    """What the file is instead, or where it is of the wanted kind, what is wrong with it."""
    kind = kind_of(path)
    return _reason(error) if kind.startswith(("file of torch.save", "safetensors")) else kind


def _reason(error: BaseException) -> str:
    """The first sentence of an error; of an unpickler's our own: torch's advises to load with code."""
    if isinstance(error, pickle.UnpicklingError):
        return "its bytes are not what torch.save writes"
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return "it claims more memory than there is"
    lines = re.split(r"\.\s|\n", str(error).strip())
    return printable(lines[0][:200]) or type(error).__name__
