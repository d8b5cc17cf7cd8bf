"""What every test runs under."""

from __future__ import annotations

import torch
from hypothesis import settings

# The same examples on every run and machine, no clock, nothing written to disk.
settings.register_profile("exact", derandomize=True, deadline=None, database=None)
settings.load_profile("exact")

# tiny tensors gain nothing from threads, and several test processes share the cores
torch.set_num_threads(1)
