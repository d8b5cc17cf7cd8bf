"""What a checkpoint says of the machine its run went on."""

from __future__ import annotations

import pytest
import torch

from alphabar.training.environment import changes, environment

CPU = torch.device("cpu")


@pytest.fixture
def capability(monkeypatch):
    return lambda name: monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)


@pytest.mark.parametrize(("compiled", "said"), [(object(), "compiled"), (None, "torch's")])
def test_which_convolutions_were_used_where_there_are_two_kinds(compiled, said, capability, monkeypatch):
    monkeypatch.setattr("alphabar.training.environment.native_sums", lambda: compiled)
    capability("AVX2")
    assert environment(CPU)["convolutions"] == said
    capability("AVX512")
    assert "convolutions" not in environment(CPU)


def test_what_differs_is_named_and_what_was_not_known_is_not():
    before = {"torch": "2.12.0", "threads": 2}
    now = {"torch": "2.13.0", "threads": 2, "convolutions": "compiled"}
    assert changes(before, now) == "torch 2.12.0 → 2.13.0"
    assert changes({**before, "convolutions": "torch's"}, now) == (
        "torch 2.12.0 → 2.13.0, convolutions torch's → compiled"
    )
    assert changes(now, now) == ""
