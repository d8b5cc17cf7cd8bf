"""Time embedding: golden values, since no analytic denoiser can see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.model.nn.embed import sinusoid
from oracles import sinusoid as oracle


@pytest.mark.parametrize("dim", [4, 64, 128])
def test_every_entry(dim: int) -> None:
    """Elementwise against ``math.sin``; t up to T, where wrong frequencies show."""
    t = torch.tensor([0, 1, 2, 57, 500, 999, 1000])
    actual = sinusoid(t, dim)
    assert actual.dtype == torch.float64
    assert actual.numpy() == pytest.approx(oracle.sinusoid(t.numpy(), dim), abs=1e-10)


def test_goldens() -> None:
    """Sines first, then cosines; the last frequency is exactly 1/10000."""
    zero, one, thousand = sinusoid(torch.tensor([0, 1, 1000]), 128).tolist()
    assert zero == [0.0] * 64 + [1.0] * 64
    assert (one[0], one[64]) == pytest.approx((0.8414709848078965, 0.5403023058681398), abs=1e-15)
    assert one[63] == pytest.approx(9.9999999833e-5, abs=1e-14)
    assert thousand[63] == pytest.approx(0.099833416646828, abs=1e-12)


def test_diffusers_slice() -> None:
    """tests/models/test_layers_utils.py of diffusers (Apache-2.0)."""
    embedding = sinusoid(torch.arange(128), 64)
    assert embedding[23:26, 47:50].numpy() == pytest.approx(np.array(oracle.DIFFUSERS_SLICE), abs=1e-4)


def test_inner_products_depend_on_the_distance() -> None:
    """⟨e(t), e(s)⟩ = Σ cos((t−s) f_k), and |e|² is the number of frequencies."""
    embedding = sinusoid(torch.tensor([3, 10, 503, 510]), 64)
    gram = embedding @ embedding.T
    assert gram.diagonal().tolist() == pytest.approx([32.0] * 4, abs=1e-12)
    assert gram[0, 1].item() == pytest.approx(gram[2, 3].item(), abs=1e-11)
