"""The native artefact: what is needed to rebuild a denoiser, without code and without pickle.

An artefact is a directory with ``model.json`` (network, schedule, conventions), weights as safetensors, and
``manifest.json`` with the size and SHA-256 of every file. It appears by one rename and is verified before a tensor is
used: none of the common weight formats notices a flipped bit. A run keeps one such directory per saved step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import operator
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from alphabar.base import storage
from alphabar.base.choice import choose, describe, from_table, to_table
from alphabar.base.errors import CheckpointError, KeyMismatch, NewerFormat, StorageError, UnknownFormat, printable
from alphabar.base.pixels import Units
from alphabar.base.version import __version__
from alphabar.model.denoiser import TIME_INPUTS, Clip, Denoiser
from alphabar.model.network import unet
from alphabar.model.nn import UNet, UNetConfig
from alphabar.model.prediction import PREDICTIONS
from alphabar.model.variance import VARIANCES
from alphabar.process.schedules import SCHEDULES, FromAlphaBar, Schedule
from alphabar.weights.kinds import kind_of, kind_of_folder

__all__ = [
    "find",
    "latest",
    "listed_sha256",
    "load",
    "read",
    "read_tensors",
    "save",
    "steps",
    "training_state",
    "verify",
    "write",
]

FORMAT = 1
MAX_VALUES = 2**28  # numbers in one image
STEP = re.compile(r"step-(\d{9})")
MANIFEST = {"format", "alphabar", "torch", "python", "files"}
log = logging.getLogger("alphabar")


def describe_model(denoiser: Denoiser) -> dict[str, Any]:
    """Everything but the weights, as JSON values.

    Raises:
        ConfigError: if the network is no ``UNet``: only that can be rebuilt from a description.
    """
    config = unet(denoiser).config
    schedule = denoiser.schedule
    spec = schedule.spec if schedule.spec is not None else FromAlphaBar(tuple(schedule.alpha_bar.tolist()))
    return {
        "format": FORMAT,
        "shape": list(denoiser.shape),
        "net": to_table(config) | {"total_time_steps": config.total_time_steps},
        "schedule": describe(SCHEDULES, spec),
        "alpha_bar": _landmarks(schedule),
        "prediction": describe(PREDICTIONS, denoiser.prediction),
        "variance": describe(VARIANCES, denoiser.variance),
        "time_input": describe(TIME_INPUTS, denoiser.time_input),
        "clip": None if denoiser.clip is None else denoiser.clip.limit,
        "autocast": None if denoiser.autocast is None else str(denoiser.autocast).removeprefix("torch."),
        "units": None if denoiser.units is None else dataclasses.asdict(denoiser.units),
    }


def _landmarks(schedule: Schedule) -> list[float]:
    """ᾱ at five times: enough to notice another schedule, and comparable between machines (a hash would not be)."""
    return [float(schedule.alpha_bar[schedule.T * k // 4]) for k in range(5)]


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300)


def build_model(model: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, weights: str) -> Denoiser:
    """The denoiser of a description, with fresh weights.

    ``tensors`` are the weights that it will get, from the file ``weights``: no memory is taken for a network that they
    do not fit.

    Raises:
        CheckpointError: if the description is of a newer format or makes no sense.
        KeyMismatch: if it is not that of ``tensors``.
    """
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{where}: not a model description of alphabar")
    _check_format(model, where)
    try:
        schedule: Schedule = choose(SCHEDULES, model["schedule"], "schedule").build()
        if not all(map(_close, _landmarks(schedule), model["alpha_bar"])):
            raise CheckpointError(
                f"{where}: the schedule it describes is not the one it was trained on (other alpha_bar)"
            )
        dtype = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[model["autocast"]]
        channels, height, width = (operator.index(n) for n in model["shape"])
        config = from_table(UNetConfig, model["net"], "net")
        variance = choose(VARIANCES, model["variance"], "variance")
        config.check_size(height, width)
        if min(height, width) < 1 or config.input_channels != channels:
            raise CheckpointError(
                f"{where}: shape {model['shape']} does not fit {config.input_channels} input channels"
            )
        if config.output_channels != channels * variance.channels:
            raise CheckpointError(f"{where}: {config.output_channels} output channels do not fit its variance")
        if channels * height * width > MAX_VALUES:
            raise CheckpointError(f"{where}: images of shape {[channels, height, width]} are too large")
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                _check_fit(UNet(**dataclasses.asdict(config)), tensors, weights)
            net = UNet(**dataclasses.asdict(config))
        return Denoiser(
            net,
            schedule,
            shape=(channels, height, width),
            prediction=choose(PREDICTIONS, model["prediction"], "prediction"),
            variance=variance,
            time_input=choose(TIME_INPUTS, model["time_input"], "time_input"),
            clip=None if model["clip"] is None else Clip(model["clip"]),
            autocast=dtype,
            units=None if model.get("units") is None else Units(**model["units"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{where}: not a model description of alphabar ({printable(error)})") from error


def _check_format(described: Mapping[str, Any], where: str) -> None:
    """Raise unless a description or manifest is of the format that is read here."""
    found = described.get("format")
    if found == FORMAT:
        return
    maker, number = (printable(x)[:40] for x in (described.get("alphabar", "another version"), found))
    made = f"made by alphabar {maker} in format {number}, this is alphabar {__version__} for format {FORMAT}"
    if isinstance(found, int) and found > FORMAT:
        raise NewerFormat(f"{where}: {made}; install the newer alphabar")
    raise CheckpointError(f"{where}: {made}")


def write(
    path: Path, model: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any] | None
) -> None:
    """Commit one artefact directory: ``model.json``, one safetensors file per entry of ``tensors``, ``state.json``.

    Raises:
        StorageError: if the disk refuses; nothing appears at ``path`` then.
        CheckpointError: if a tensor is not finite; such weights are never written.
    """
    for file, named in tensors.items():
        for name, tensor in named.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CheckpointError(f"{printable(path)}: {file} has non-finite values in {name}; not saved")
    files = {"model.json": json.dumps(model, indent=1).encode()}
    if state is not None:
        files["state.json"] = json.dumps(state, indent=1).encode()
    for file, named in tensors.items():
        dense = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        files[f"{file}.safetensors"] = safetensors.torch.save(dense)
    files["manifest.json"] = _manifest(files)
    with storage.commit_directory(path, need=sum(map(len, files.values()))) as folder:
        for name, data in files.items():
            storage.write_bytes(folder / name, data)


def _manifest(files: Mapping[str, bytes]) -> bytes:
    """What a checkpoint must consist of. The hashes are of the bytes in memory, so a write that goes wrong is seen."""
    manifest = {
        "format": FORMAT,
        "alphabar": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "files": {n: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for n, data in files.items()},
    }
    return json.dumps({**manifest, "sha256": _seal(manifest)}, indent=1).encode()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The hash of everything else in a manifest."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _listed(manifest: Any, path: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every file that a manifest lists.

    Raises:
        NewerFormat: if a newer alphabar made it.
        CheckpointError: if it is none, or its bytes changed.
    """
    where = f"{printable(path)}/manifest.json"
    if not isinstance(manifest, Mapping):
        raise CheckpointError(f"{where}: not a manifest of alphabar")
    # a damaged number is no newer format: the seal is of the whole manifest, in every format
    if "sha256" in manifest and manifest["sha256"] != _seal(manifest):
        raise CheckpointError(f"{where}: SHA-256 differs from its own; the file was damaged")
    _check_format(manifest, where)
    try:
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}: not a manifest of alphabar") from error
    # the first manifests had no seal
    if manifest.keys() - {"sha256"} != MANIFEST:
        raise CheckpointError(f"{where}: not a manifest of alphabar")
    return listed


def _is_saved_model(path: Path) -> bool:
    """Whether ``path`` is a folder that :func:`save` wrote, and nothing else is in it."""
    try:
        listed = _listed(storage.read_json(path / "manifest.json"), path)
    except CheckpointError:
        return False
    return "state.json" not in listed and {file.name for file in path.iterdir()} <= {*listed, "manifest.json"}


def verify(path: Path) -> None:
    """Compare every file of an artefact with its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, added or changed.
    """
    try:
        _verify(path)
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({printable(error.strerror or error)})") from error


def _verify(path: Path) -> None:
    manifest = storage.read_json(path / "manifest.json")
    listed = _listed(manifest, path)
    present = {file.name for file in path.iterdir()} - {"manifest.json"}
    for name in sorted(listed.keys() ^ present):
        what = "is missing" if name in listed else "is not in the manifest"
        raise CheckpointError(f"{printable(path / name)}: {what}; the checkpoint is not the one that was saved")
    for name, (size, digest) in listed.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(
                f"{printable(file)}: is no regular file; the checkpoint is not the one that was saved"
            )
        if file.stat().st_size != size:
            raise CheckpointError(
                f"{printable(file)}: {file.stat().st_size} bytes, the manifest says {printable(size)[:40]}"
            )
        if storage.sha256(file) != digest:
            raise CheckpointError(f"{printable(file)}: SHA-256 differs from the manifest; the file was damaged")
    if "state.json" in listed:
        step, named = training_state(path)["step"], STEP.fullmatch(path.absolute().name)
        if named is not None and step != int(named[1]):
            raise CheckpointError(f"{printable(path)}: holds another step than its name says; it was moved or copied")


def training_state(folder: Path) -> dict[str, Any]:
    """What a step of a run says beside its weights: ``step``, the fingerprint ``data`` of its images, ….

    Raises:
        CheckpointError: if it is missing or makes no sense.
    """
    state = storage.read_json(folder / "state.json")
    kinds = {"step": int, "data": str, "metrics_lines": int, "skipped": int, "skipped_in_a_row": int}
    given = {**dict.fromkeys(("metrics_lines", "skipped", "skipped_in_a_row"), 0), **state} if _is_table(state) else {}
    for name, kind in kinds.items():
        if type(given.get(name)) is not kind or (kind is int and not 0 <= given[name] < 2**63):
            raise CheckpointError(f"{printable(folder)}/state.json: not the state of a run (its {name} makes no sense)")
    scale, environment = given.setdefault("lr_scale", 1.0), given.setdefault("environment", {})
    if type(scale) is not float or not 0 < scale <= 1 or not _is_table(environment):
        raise CheckpointError(f"{printable(folder)}/state.json: not the state of a run (lr_scale or environment)")
    return given


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def listed_sha256(folder: Path, name: str) -> str:
    """The SHA-256 of one file of a verified artefact, as its manifest lists it."""
    return _listed(storage.read_json(folder / "manifest.json"), folder)[name][1]


def read_tensors(path: Path, *, finite: bool = True) -> dict[str, Tensor]:
    """The tensors of a safetensors file; only ``finite`` ones, unless somebody wants to look at others.

    Raises:
        CheckpointError: if it is missing or malformed, or holds NaN or infinity and may not.
    """
    try:
        tensors = _open_tensors(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{printable(path)}: not a readable safetensors file ({printable(error)})") from error
    if finite:
        _check_finite(tensors, printable(path))
    return tensors


def _open_tensors(path: Path) -> dict[str, Tensor]:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # safetensors opens no path that is no UTF-8
        return dict(safetensors.torch.load(path.read_bytes()))
    return dict(safetensors.torch.load_file(path))


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: non-finite values in {printable(name)[:200]}")


def steps(run: Path) -> list[Path]:
    """The step directories of a run, newest (highest step) first."""
    if not run.is_dir():
        return []
    return sorted((p for p in run.iterdir() if STEP.fullmatch(p.name) and p.is_dir()), reverse=True)


def latest(run: Path) -> Path | None:
    """The newest step directory whose bytes fit their manifest; each damaged newer one is logged and passed over.

    Raises:
        NewerFormat: if the newest is whole, but of a newer alphabar: older ones are not what was asked for.
    """
    for path in steps(run):
        try:
            verify(path)
        except NewerFormat:
            raise
        except CheckpointError as error:
            log.warning("%s; it is passed over", error)
        else:
            return path
    return None


def find(path: Path) -> Path:
    """The verified artefact at ``path``: a run (its newest good step), one step, or a saved denoiser.

    Raises:
        CheckpointError: if there is none.
    """
    where = printable(path)
    try:
        if not path.exists():
            raise CheckpointError(f"{where}: no such file or folder; give a run folder or a saved model")
        ours = "alphabar reads run folders and the folders that save() writes"
        if not path.is_dir():
            what = kind_of(path) if path.is_file() else "pipe or device"
            raise UnknownFormat(f"{where}: is a file of another kind ({what}); {ours}")
        if (path / "model.json").exists() or (path / "manifest.json").exists():
            _verify_named(path)
            return path
        newest = latest(path)
        foreign = kind_of_folder(path) if newest is None else None
    except OSError as error:
        raise CheckpointError(f"{where}: {printable(error.strerror)}; give a run folder or a saved model") from error
    if foreign is not None:
        raise UnknownFormat(f"{where}: is a model of another kind ({foreign}); {ours}")
    if newest is None and (damaged := len(steps(path))):
        raise CheckpointError(
            f"{where}: none of its {damaged} checkpoints is intact; restore one from a copy, or train it again"
        )
    if newest is None:
        raise CheckpointError(f"{where}: holds no finished checkpoint; train it first, or give another folder")
    return newest


def _verify_named(path: Path) -> None:
    """:func:`verify` of one step that was asked for by name; the error says which other step would do."""
    try:
        verify(path)
    except CheckpointError as error:
        for other in steps(path.absolute().parent) if STEP.fullmatch(path.absolute().name) else []:
            if other != path.absolute() and _is_intact(other):
                raise type(error)(f"{error}; {printable(path.parent / other.name)} is intact") from error
        raise


def _is_intact(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def output_folder(folder: Path) -> Path:
    """Where results about the artefact ``folder`` go: its run, or a folder beside a saved model."""
    folder = folder.resolve()
    return folder.parent if STEP.fullmatch(folder.name) else folder.with_name(f"{folder.name}-results")


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy ``tensors`` into ``module``, which must have exactly these names and shapes.

    Raises:
        KeyMismatch: naming the first difference.
        CheckpointError: if a value is not finite.
    """
    _check_fit(module, tensors, where)
    _check_finite(tensors, where)
    module.load_state_dict(dict(tensors), strict=True)


def _check_fit(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise KeyMismatch unless ``tensors`` have exactly the names and shapes of ``module``."""
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unexpected:
        first = f"{missing[0]} is missing" if missing else f"{printable(unexpected[0])[:200]} is not part of the model"
        raise KeyMismatch(
            f"{where}: {len(missing)} tensors missing, {len(unexpected)} unexpected (first: {first}); "
            "the weights are of another network"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise KeyMismatch(f"{where}: {name} is {list(tensor.shape)}, the model needs {list(wanted[name].shape)}")


def save(denoiser: Denoiser, path: str | Path) -> None:
    """Write ``denoiser`` to the folder ``path``, from which :func:`load` rebuilds it.

    Raises:
        ConfigError: if the network is no ``UNet``.
        StorageError: if the disk refuses, or ``path`` is a folder of something else.
    """
    path = Path(path)
    if path.exists() and not _is_saved_model(path):
        raise StorageError(f"{printable(path)}: exists and is no saved model; give a new name")
    write(path, describe_model(denoiser), {"ema": unet(denoiser).state_dict()}, None)


def load(path: str | Path, *, weights: str = "ema", device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser saved at ``path`` (a run folder, one of its steps, or a folder of :func:`save`), ready to sample.

    ``weights`` is ``"ema"``, the trailing average, or ``"net"``, the raw weights that a run keeps beside it.

    Raises:
        CheckpointError: if nothing there loads, or its bytes changed since it was written.
    """
    return read(find(Path(path)), weights=weights, device=device)


def read(folder: Path, *, weights: str = "ema", device: str | torch.device = "cpu") -> Denoiser:
    """:func:`load` of an artefact that :func:`find` has verified already.

    Raises:
        CheckpointError: if it has no such weights, or they do not fit its description.
    """
    where = printable(folder)
    file = folder / f"{weights}.safetensors"
    if not file.exists():
        held = ", ".join(weights_in(folder)) or "none"
        raise CheckpointError(f"{where}: has no {weights} weights; it holds {held}")
    tensors = read_tensors(file)
    model = storage.read_json(folder / "model.json")
    denoiser = build_model(model, tensors, f"{where}/model.json", f"{where}/{file.name}")
    # as in training, so that a preview and a later sample of the same weights agree to the last bit
    unet(denoiser).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_weights(unet(denoiser), tensors, f"{where}/{file.name}")
    return denoiser.to(device).eval().requires_grad_(False)


def weights_in(folder: Path) -> list[str]:
    """The sets of network weights in an artefact: ``ema``, and ``net`` in a run."""
    return [name for name in ("ema", "net") if (folder / f"{name}.safetensors").exists()]
