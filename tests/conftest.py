"""What every test runs under."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import torch
from hypothesis import settings

# The same examples on every run and machine, no clock, nothing written to disk.
settings.register_profile("exact", derandomize=True, deadline=None, database=None)
settings.load_profile("exact")

# what commands keep between calls is neither taken from the user's cache nor left there
os.environ["ALPHABAR_CACHE"] = tempfile.mkdtemp(prefix="alphabar-test-cache-")
atexit.register(shutil.rmtree, os.environ["ALPHABAR_CACHE"], ignore_errors=True)

# tiny tensors gain nothing from threads, and several test processes share the cores
torch.set_num_threads(1)
