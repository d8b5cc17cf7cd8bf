"""Muon against singular value decompositions, and against its published iteration written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alphabar.training.muon import Muon, is_matrix, orthogonal
from alphabar.training.optim import OptimConfig, build_optimizer, kept_for


def published(matrix: np.ndarray) -> np.ndarray:
    """The iteration as the paper has it, on the whole matrix in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(24, 24), (16, 200), (200, 16), (64, 576)])
def test_equals_the_published_iteration(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        orthogonal([matrix])[0], torch.from_numpy(published(matrix.double().numpy())).float(), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_has_the_singular_vectors_of_the_matrix_and_values_near_one(shape, size):
    matrix = size * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal([matrix])[0] @ vh.T
    values = inside.diagonal()
    assert ((values > 0.6) & (values < 1.25)).all()
    torch.testing.assert_close(inside, torch.diag(values), rtol=0, atol=1e-9)


def test_many_at_once_equal_each_alone():
    draw = torch.Generator().manual_seed(3)
    matrices = [torch.randn(shape, generator=draw) for shape in [(16, 40), (24, 24), (70, 16), (16, 16), (24, 99)]]
    for matrix, together in zip(matrices, orthogonal(matrices), strict=True):
        assert together.shape == matrix.shape
        torch.testing.assert_close(together, orthogonal([matrix])[0], rtol=0, atol=1e-5)
    assert orthogonal([]) == []


def test_zero_stays_zero():
    assert torch.equal(orthogonal([torch.zeros(16, 20)])[0], torch.zeros(16, 20))


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(32, 16)
        self.hidden = torch.nn.Conv2d(16, 20, 3).to(memory_format=torch.channels_last)
        self.narrow = torch.nn.Conv2d(20, 4, 1)


def test_steps_by_hand():
    torch.manual_seed(0)
    net = Small()
    config = OptimConfig(optimizer="muon", lr=0.01, weight_decay=0.1, betas=(0.8, 0.95))
    made, weight = build_optimizer(net, config), net.hidden.weight
    beside = Small()
    beside.load_state_dict(net.state_dict())
    others = [p for name, p in beside.named_parameters() if name != "hidden.weight"]
    adamw = torch.optim.AdamW(others, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    hand, momentum = weight.detach().double().numpy().reshape(20, 144), np.zeros((20, 144))
    for step in range(3):
        for p, q in zip(net.parameters(), beside.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(p)
            q.grad = p.grad.clone()
        gradient = weight.grad.double().numpy().reshape(20, 144)
        before = weight.grad.clone()
        made.step()
        adamw.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        hand = hand * (1 - 0.001) - 0.01 * 0.2 * 12 * published(0.05 * gradient + 0.95 * momentum)
        assert torch.equal(weight.grad, before)
        np.testing.assert_allclose(weight.detach().numpy().reshape(20, 144), hand, atol=1e-5)
    for (name, p), q in zip(net.named_parameters(), beside.parameters(), strict=True):
        if name != "hidden.weight":
            torch.testing.assert_close(p, q)
    assert set(made.state[weight]) == {"momentum"}


def test_a_step_is_as_large_as_one_of_adamw():
    net = torch.nn.Linear(64, 48)
    before = net.weight.detach().clone()
    net.weight.grad = torch.randn(48, 64) * 1e3
    build_optimizer(net, OptimConfig(optimizer="muon", lr=0.01)).step()
    size = (net.weight - before).square().mean().sqrt()
    assert 0.7 * 0.2 * 0.01 < size < 1.2 * 0.2 * 0.01


def test_which_weights_are_matrices():
    net = Small()
    made = build_optimizer(net, OptimConfig(optimizer="muon"))
    assert isinstance(made, Muon)
    names = {id(p): name for name, p in net.named_parameters()}
    first, second = ({names[id(p)] for p in group["params"]} for group in made.param_groups)
    assert first == {"hidden.weight"}
    assert second == {"table.weight", "hidden.bias", "narrow.weight", "narrow.bias"}
    kept = {names[id(p)]: kinds for p, kinds in kept_for(made).items()}
    assert kept["hidden.weight"] == {"momentum"} and kept["table.weight"] == {"step", "exp_avg", "exp_avg_sq"}
    assert is_matrix(torch.zeros(16, 4, 2, 2)) and not is_matrix(torch.zeros(16, 15)) and not is_matrix(torch.zeros(99))


def test_what_has_no_gradient_stays_and_a_closure_is_called():
    net = Small()
    made, before = build_optimizer(net, OptimConfig(optimizer="muon")), net.hidden.weight.detach().clone()

    def loss() -> torch.Tensor:
        value = net.narrow.weight.square().sum()
        value.backward()
        return value

    assert made.step(loss).item() > 0
    assert torch.equal(net.hidden.weight, before) and not made.state.get(net.hidden.weight)
