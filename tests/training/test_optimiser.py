"""Muon: against torch's own, AdamW's share, and its saved state."""

from __future__ import annotations

import copy

import pytest
import torch
from geomol_training.optimiser import Muon, make_optimiser, matrices_of, orthogonal
from geomol_training.sections import Optimiser
from torch import nn

from ase_geomol.nn.degrees import DegreeLinear

SHAPES = [(8, 8), (8, 8), (24, 8), (8, 24)]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(3, 8), nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(24, 1)).double()


def _muon(network: nn.Module, **options: float) -> Muon:
    matrices = matrices_of(network)
    others = [p for p in network.parameters() if all(p is not matrix for matrix in matrices)]
    return Muon(matrices, [{"params": others}], **{"lr": 1e-2, **options})


def _learn(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimiser.zero_grad()
        wanted = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64) * (1 + step)
        (network(torch.arange(3)).squeeze(-1) - wanted).square().sum().backward()
        optimiser.step()


def test_linear_maps_are_the_matrices_but_not_the_last(network: nn.Module) -> None:
    assert [tuple(p.shape) for p in matrices_of(network)] == [(8, 8), (24, 8)]


def test_each_degree_has_a_matrix() -> None:
    layer = DegreeLinear(2, 8, 24)
    assert [tuple(p.shape) for p in matrices_of(layer)] == [(3, 8, 24)]
    before = layer.weight.detach().clone()
    optimiser = Muon(matrices_of(layer), [{"params": [layer.bias]}], lr=0.01)
    layer(torch.randn(50, 9, 8)).square().sum().backward()
    optimiser.step()
    singular = torch.linalg.svdvals((layer.weight - before).detach()) / (0.01 * 0.2 * 24**0.5)
    assert ((singular > 0.6) & (singular < 1.3)).all(), "of every degree by itself"


@pytest.mark.parametrize("shape", [(5, 8, 8), (24, 8), (3, 8, 24)])
def test_singular_values_are_near_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    made = orthogonal(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.mT @ made @ right.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    assert diagonal.min() > 0.3
    assert diagonal.max() < 1.25
    assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-10


def test_small_singular_values_grow_and_the_others_end_near_one() -> None:
    values = torch.logspace(0, -5, 64, dtype=torch.float64)
    torch.manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0] for _ in range(2))
    made = (left.mT @ orthogonal(left * values @ right) @ right.mT).diagonal()
    share = values / values.norm()
    assert made[share > 0.002].min() > 0.65
    assert made[share > 0.002].max() < 1.25
    assert (made / share)[share < 1e-4].sub(480).abs().max() < 10


def test_matrices_move_as_with_torchs_muon() -> None:
    """Up to the bfloat16 in which torch's computes the directions."""
    torch.manual_seed(2)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 1e-2, "weight_decay": 0.1}
    steps = [
        Muon(ours, [{"params": [nn.Parameter(torch.zeros(1))]}], **options),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options),
    ]
    start = [p.detach().clone() for p in ours]
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimiser in steps:
            optimiser.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        moved = (other - before).norm()
        assert (one - other).norm() < 0.05 * moved


def test_several_matrices_in_one_parameter_move_as_each_alone() -> None:
    torch.manual_seed(4)
    stack = nn.Parameter(torch.randn(2, 8, 24, dtype=torch.float64))
    alone = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    other = [{"params": [nn.Parameter(torch.zeros(1))]}]
    optimisers = [Muon([stack], other, lr=1e-2), Muon(alone, other, lr=1e-2)]
    for _ in range(3):
        stack.grad = torch.randn_like(stack)
        for matrix, gradient in zip(alone, stack.grad, strict=True):
            matrix.grad = gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    assert torch.allclose(stack, torch.stack(alone), rtol=0, atol=1e-12)


def test_all_other_parameters_move_as_with_adamw(network: nn.Module) -> None:
    """Where matrices stand still, as with a learning rate of zero, the rest is AdamW's."""
    other = copy.deepcopy(network)
    muon = _muon(network)
    muon.param_groups[0]["lr"] = 0.0
    still = matrices_of(other)
    adamw = torch.optim.AdamW(
        [p for p in other.parameters() if all(p is not matrix for matrix in still)], lr=1e-2, betas=(0.9, 0.999)
    )
    _learn(network, muon, 4)
    _learn(other, adamw, 4)
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_learns(network: nn.Module) -> None:
    before = copy.deepcopy(network)
    _learn(network, _muon(network), 3)
    for parameter, start in zip(network.parameters(), before.parameters(), strict=True):
        assert not torch.equal(parameter, start)


def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened(network: nn.Module) -> None:
    other = copy.deepcopy(network)
    whole = _muon(network)
    _learn(network, whole, 3)
    _learn(network, whole, 3)
    first = _muon(other)
    _learn(other, first, 3)
    second = _muon(other, lr=5.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _learn(other, second, 3)
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_learning_rate_set_from_outside_reaches_all(network: nn.Module) -> None:
    muon, before = _muon(network), copy.deepcopy(network)
    for group in muon.param_groups:
        group["lr"] = 0.0
    _learn(network, muon, 2)
    for parameter, start in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, start)


@pytest.mark.parametrize(("name", "rank"), [("adam", None), ("adamw", None), ("muon", None), ("adamw", 2)])
def test_settings_reach_the_optimiser(network: nn.Module, name: str, rank: int | None) -> None:
    settings = Optimiser(name=name, lr=0.02, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.1)  # type: ignore[arg-type]
    made = make_optimiser(network, settings, rank)
    adam = made if not hasattr(made, "adamw") else made.adamw
    for group in adam.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.9), 1e-5)
        assert group["weight_decay"] in (0.0, 0.1)
    assert any(group.get("weight_decay") == 0.1 for group in made.param_groups + adam.param_groups)
