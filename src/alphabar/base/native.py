"""C files of this package, compiled when they are first needed, where there is a compiler; everything works without."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

from alphabar.base.cache import cache_folder
from alphabar.base.errors import StorageError

__all__ = ["native"]

FLAGS = ("-O3", "-mavx2", "-mfma", "-fopenmp", "-fPIC", "-shared")
PATIENCE = 20  # seconds: it takes one or two

log = logging.getLogger("alphabar")


@functools.cache
def native(source: Path) -> ctypes.CDLL | None:
    """The functions of a C file, or None: on a processor without AVX2, without a compiler, or where that fails.

    The file may include headers that are beside it.

    What was compiled is kept in the cache folder, under a name that says of what, and taken from there only where
    nobody else could have put it.
    """
    compiler = shutil.which("cc")
    if compiler is None or os.name != "posix" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    try:
        library = _compiled(source, compiler)
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # damaged, perhaps by a power cut
            library.unlink()
            return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, subprocess.SubprocessError, StorageError) as error:
        log.info("%s: not compiled, its slower form is used: %s", source.name, error)
        return None


def _compiled(source: Path, compiler: str) -> Path:
    folder = cache_folder() / "native"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _only_ours(folder):
        raise PermissionError(f"{folder}: others may write to it")
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256("\0".join([os.path.realpath(compiler), *FLAGS, *texts]).encode()).hexdigest()
    library = folder / f"{source.stem}-{key[:16]}.so"
    if not library.exists() or not _only_ours(library):
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            made = Path(inside) / library.name
            command = [compiler, *FLAGS, str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
            made.chmod(0o700)
            made.replace(library)
    return library


def _only_ours(path: Path) -> bool:
    """Whether nobody but this user may write to it."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
