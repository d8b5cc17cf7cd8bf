"""A feature network of one's own: a module that the user's Python builds, with weights from a safetensors file.

Naming such a network runs the Python file that it names, as importing it would. The weight file is only read.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alphabar.base.errors import ConfigError, DataError, printable
from alphabar.base.pixels import to_model_range
from alphabar.evaluation.features.base import Features
from alphabar.weights.checkpoint import load_weights
from alphabar.weights.foreign import read_state

__all__ = ["Custom", "open_custom"]

FORM = re.compile(r"(?P<source>.+?):(?P<factory>[^\W\d]\w*)@(?P<weights>.+)", re.DOTALL)
# part of every fingerprint: a change to what happens between uint8 and the module must change this text
PREPROCESSING = "custom/1: x/127.5-1"


class Custom:
    """A user's module as a :class:`~alphabar.evaluation.features.base.FeatureNet`, in evaluation mode on the CPU.

    Attributes:
        name: ``SOURCE:FACTORY`` as given, without the weights.
        sha256: of the weight file, the text of the Python file, the factory's name and the scaling. Not in it: what
            that file imports, and the version of torch.
        resize: the module sees images in their own size.
    """

    resize = "none by alphabar; the module sees x/127.5 - 1 in the images' own size and channels"

    def __init__(self, net: nn.Module, name: str, sha256: str) -> None:
        self.name, self.sha256 = name, sha256
        self._net = net.eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> Features:
        """Features float32 [B, D] of ``images`` uint8 [B, C, H, W]; logits float32 [B, K] if the module gives both.

        Raises:
            DataError: if the module fails on such images, or gives values that are not finite.
            ConfigError: if the images are not uint8, or what the module returns is neither [B, D] nor ([B, D], [B, K]).
        """
        x = to_model_range(images.contiguous())
        try:
            with torch.no_grad():
                out = self._net(x)
        except Exception as error:  # the user's code may raise anything
            raise DataError(
                f"features {printable(self.name)}: failed on images {list(x.shape)} ({_reason(error)}); it may want "
                "another size or number of channels"
            ) from error
        pair = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
        values = self._vectors(pair[0], len(x))
        return Features(values, None if pair[1] is None else self._vectors(pair[1], len(x)))

    def _vectors(self, value: object, batch: int) -> Tensor:
        where = f"features {printable(self.name)}"
        if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != batch or value.shape[1] < 1:
            given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"{where}: returned {given} for {batch} images, need float [{batch}, D] or a pair (features "
                f"[{batch}, D], logits [{batch}, K])"
            )
        if not value.is_floating_point():
            raise ConfigError(f"{where}: returned {value.dtype}, need floating-point features")
        vectors = value.detach().to("cpu", torch.float32)
        if not torch.isfinite(vectors).all():
            raise DataError(
                f"{where}: returned values that are not finite; its weights or its code do not fit these images"
            )
        return vectors


def open_custom(spec: str) -> Custom:
    """The network that ``spec`` names: ``MODULE:FACTORY@WEIGHTS.safetensors``.

    MODULE is a dotted name that can be imported, or the path of a ``.py`` file, which is run. FACTORY is called without
    arguments and returns an ``nn.Module`` that maps float32 images [B, C, H, W] in [−1, 1] to float [B, D], or to
    a pair of that and logits [B, K]; each row must depend on its own image alone. WEIGHTS has exactly the names and
    shapes of the module's state dict.

    Raises:
        ConfigError: if ``spec`` has another form, there is no such module or factory, importing or calling it fails, or
            it returns no ``nn.Module``, or a TorchScript one.
        CheckpointError: if the weights are missing, damaged or of another module.
    """
    match = FORM.fullmatch(spec)
    if match is None:
        raise ConfigError(
            f"features: {printable(spec)!r} is not of the form MODULE:FACTORY@WEIGHTS.safetensors, e.g. "
            "mynet.py:build@mynet.safetensors"
        )
    source, factory, weights = match["source"], match["factory"], Path(match["weights"])
    if weights.suffix.lower() != ".safetensors":
        raise ConfigError(
            f"features: weights {printable(weights)} are not .safetensors; TorchScript and pickles contain code: write "
            "them with safetensors.torch.save_file(module.state_dict(), ...)"
        )
    state, digest = read_state(weights)  # before anything of the user's runs
    module, text = _run_file(Path(source)) if source.endswith(".py") else _import(source)
    net = _build(module, source, factory)
    load_weights(net, state, printable(weights))
    fingerprint = "\n".join([PREPROCESSING, factory, hashlib.sha256(text).hexdigest(), digest])
    return Custom(net, f"{source}:{factory}", hashlib.sha256(fingerprint.encode()).hexdigest())


def _run_file(path: Path) -> tuple[types.ModuleType, bytes]:
    """The module that the file makes, and its text: what is hashed is what ran."""
    where = f"features: {printable(path)}"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({_reason(error)}); give the path of a Python file") from error
    name = f"alphabar_custom_{hashlib.sha256(text).hexdigest()[:16]}"
    module = types.ModuleType(name)
    module.__file__ = str(path.absolute())
    sys.modules[name] = module  # dataclasses and the like look their own module up
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        raise ConfigError(f"{where}: cannot be run ({_reason(error)})") from error
    return module, text


def _import(name: str) -> tuple[types.ModuleType, bytes]:
    """The module of that dotted name, and the text of its file."""
    where = f"features: module {printable(name)}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: {_reason(error)}; give a name that can be imported, or its .py file") from error
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{where}: cannot be imported ({_reason(error)})") from error
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ConfigError(f"{where}: has no Python source to identify it by; give a module that is one .py file")
    return module, Path(file).read_bytes()


def _build(module: types.ModuleType, source: str, factory: str) -> nn.Module:
    where = f"features: {printable(source)}:{factory}"
    function = getattr(module, factory, None)
    if not callable(function):
        what = "is not callable" if hasattr(module, factory) else "does not exist there"
        raise ConfigError(f"{where}: {what}; name a function or class that is called without arguments")
    try:
        with torch.random.fork_rng(devices=[]):
            net = function()
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{where}: calling it without arguments failed ({_reason(error)})") from error
    if isinstance(net, torch.jit.ScriptModule):
        raise ConfigError(f"{where}: returned a TorchScript module, whose code is in no file here; return a Python one")
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{where}: returned a {type(net).__name__}, need a torch.nn.Module")
    if any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        raise ConfigError(f"{where}: returned a module whose parameters have no shape yet; give its layers their sizes")
    return net


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {printable(lines[0][:200])}" if lines else type(error).__name__
