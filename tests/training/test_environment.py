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
def test_which_operators_were_used_where_there_are_two_kinds(compiled, said, capability, monkeypatch):
    monkeypatch.setattr("alphabar.training.environment.winograd", lambda: compiled)
    monkeypatch.setattr("alphabar.training.environment.norm_silu_library", lambda: compiled)
    for name in ("AVX2", "AVX512"):
        capability(name)
        assert environment(CPU)["operators"] == said
    capability("DEFAULT")
    assert "operators" not in environment(CPU)


def test_what_differs_is_named_and_what_was_not_known_is_not():
    before = {"torch": "2.12.0", "threads": 2}
    now = {"torch": "2.13.0", "threads": 2, "operators": "compiled"}
    assert changes(before, now) == "torch 2.12.0 → 2.13.0"
    assert changes({**before, "operators": "torch's"}, now) == ("torch 2.12.0 → 2.13.0, operators torch's → compiled")
    assert changes(now, now) == ""
