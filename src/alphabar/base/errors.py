"""The exception tree: one class per way a user's request can fail, one exit code per class.

Every message is one line that says what was given, what is allowed and what to do. The exit codes are a contract
with scripts that call the command line; ``docs/architecture.md`` lists them.
"""

from __future__ import annotations

__all__ = [
    "AlphabarError",
    "AlphabarWarning",
    "CheckpointError",
    "ConfigError",
    "Crashed",
    "DataError",
    "Diverged",
    "KeyMismatch",
    "MissingExtra",
    "NewerFormat",
    "OutOfMemory",
    "RunInUse",
    "Stopped",
    "StorageError",
    "UnknownFormat",
    "printable",
]


class AlphabarError(Exception):
    """Base of every error that alphabar raises on purpose."""

    exit_code = 1


class ConfigError(AlphabarError, ValueError):
    """A setting, argument or tensor that cannot be right (exit code 2)."""

    exit_code = 2


class MissingExtra(ConfigError):
    """A feature needs a package that is not installed (exit code 2)."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install 'alphabar[{extra}]'")


class DataError(AlphabarError):
    """Images that are missing, unreadable or of the wrong kind (exit code 3)."""

    exit_code = 3


class CheckpointError(AlphabarError):
    """A checkpoint that is missing, damaged or of another model (exit code 4)."""

    exit_code = 4


class UnknownFormat(CheckpointError):
    """A file that is no checkpoint format known here."""


class NewerFormat(CheckpointError):
    """A checkpoint of a newer alphabar."""


class KeyMismatch(CheckpointError):
    """Tensors whose names or shapes do not fit the model."""


class StorageError(AlphabarError):
    """The disk is full, read-only or otherwise refuses (exit code 5)."""

    exit_code = 5


class Diverged(AlphabarError):
    """Training produced non-finite numbers (exit code 6)."""

    exit_code = 6


class RunInUse(AlphabarError):
    """Another process writes to the same run directory (exit code 7)."""

    exit_code = 7


class Stopped(AlphabarError):
    """A signal asked a run to stop, and its state is saved (exit code 130 after Ctrl-C, else 75).

    ``step`` is the one that was saved, or None before the session's first.
    """

    def __init__(self, step: int | None, signal_name: str, exit_code: int) -> None:
        where = "before training began" if step is None else f"at step {step}"
        saved = "" if step is None else ", saved"
        super().__init__(f"stopped {where} ({signal_name}){saved}; run the same command to continue")
        self.exit_code = exit_code


class OutOfMemory(AlphabarError):
    """Memory is exhausted (exit code 8). ``micro_batch`` is the number of images that fit a training step, if known."""

    exit_code = 8

    def __init__(self, message: str, micro_batch: int | None = None) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch


class Crashed(AlphabarError):
    """A bug of ours, whose traceback was written to a file (exit code 1)."""


class AlphabarWarning(UserWarning):
    """Something legal that is probably not what was meant."""


def printable(name: object) -> str:
    """``name`` with control, bidirectional and undecodable characters escaped, fit for a one-line message."""
    text = str(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
