"""What a file or folder that is no model of ours is, from its bytes. Nothing is decoded and nothing is executed."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["is_torchscript", "kind_of", "kind_of_folder", "torch_records"]

HEAD_BYTES = 1024
# the pickled number with which torch.save began its files before 1.6
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
TENSORFLOW_INDEX = bytes.fromhex("57fb808b247547db")  # the last bytes of a table of LevelDB
ANY_CODE = "which may contain code and is never loaded"

_MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89HDF\r\n\x1a\n"), "HDF5 file, as Keras writes them"),
    (re.compile(rb"GGUF"), "GGUF file"),
    (re.compile(rb"\x93NUMPY"), "NumPy array"),
    (re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", re.S), "picture"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "compressed file; unpack it first"),
    (re.compile(rb"version https://git-lfs"), "Git LFS pointer; run git lfs pull"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*)?<(!doctype\s+html|html|head|body)", re.S | re.I), "HTML page"),
    (re.compile(rb"\x80[\x02-\x05]"), f"Python pickle, {ANY_CODE}"),
)


def kind_of(path: Path) -> str:
    """A few words for the regular file at ``path``, such as *HTML page*."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, 2)
            file.seek(max(0, size - len(TENSORFLOW_INDEX)))
            tail = file.read(len(TENSORFLOW_INDEX))
    except OSError as error:
        return f"file that cannot be read ({error.strerror})"
    if not head:
        return "empty file"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head.startswith(LEGACY_TORCH):
        return f"file of torch.save (old format): a Python pickle, {ANY_CODE}"
    if head[257:262] == b"ustar":
        return "tar archive, as torch wrote them before 2017"
    if tail == TENSORFLOW_INDEX:
        return "index of a TensorFlow checkpoint"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors file: weights alone, without the description of their network"
    for pattern, words in _MAGIC:
        if pattern.match(head):
            return words
    if not head.strip(b"\0"):
        return "file of zero bytes"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "text file"
    return f"file of a kind not known here (starts with {head[:4].hex(' ')})"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            records = torch_records([entry.filename for entry in archive.infolist()])
    except Exception:  # zipfile raises many things on a hostile directory
        return "damaged or cut zip archive, the container of torch.save"
    if is_torchscript(records):
        return "TorchScript archive, which contains code and is never run"
    if ("data.pkl",) in records:
        return f"file of torch.save: a Python pickle, {ANY_CODE}"
    return "zip archive without tensors of torch"


def torch_records(names: list[str]) -> list[tuple[str, ...]]:
    """The paths in an archive of torch, without the folder that all of them are in."""
    return [PurePosixPath(name).parts[1:] for name in names]


def is_torchscript(records: list[tuple[str, ...]]) -> bool:
    """Whether an archive with these records is one of ``torch.jit.save``, beside or instead of plain tensors."""
    return any(record[:1] == ("code",) or record == ("constants.pkl",) for record in records)


def kind_of_folder(path: Path) -> str | None:
    """A few words for a folder that another program saved a model in; None if it is none that is known."""
    names = {file.name for file in path.iterdir()}
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return f"checkpoint of torch.distributed, whose .metadata is a pickle, {ANY_CODE}"
    if "saved_model.pb" in names:
        return "SavedModel of TensorFlow"
    if any(re.fullmatch(r".+\.(index|data-\d{5}-of-\d{5})", name) for name in names):
        return "checkpoint of TensorFlow"
    if "model_index.json" in names or any(name.startswith("diffusion_pytorch_model.") for name in names):
        return "model of diffusers"
    return None
