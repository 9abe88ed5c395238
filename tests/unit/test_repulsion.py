"""ZBL repulsion against its printed formula, and its smooth end."""

from __future__ import annotations

import math

import pytest
import torch
from ase.data import atomic_numbers, covalent_radii

from ase_geomol.repulsion import REACH, STILL, ZBLRepulsion, held

ZBL = [(0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.028171, 0.20162)]


def _energy(repulsion: ZBLRepulsion, first: str, second: str, distance: torch.Tensor) -> torch.Tensor:
    """Energies (R,) of a dimer at the distances (R,), all dimers in one batch."""
    n = len(distance)
    numbers = torch.tensor([atomic_numbers[first]] * n + [atomic_numbers[second]] * n)
    index = torch.arange(n)
    edges = torch.stack([torch.cat([index, index + n]), torch.cat([index + n, index])])
    along = distance[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    return repulsion(numbers, edges, torch.cat([along, -along]))[0].reshape(2, n).sum(0)


def test_the_global_dtype_changes_nothing() -> None:
    distance = torch.tensor([0.1], dtype=torch.float64)
    before = _energy(ZBLRepulsion(), "I", "I", distance)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(_energy(ZBLRepulsion(), "I", "I", distance), before)
    finally:
        torch.set_default_dtype(torch.float32)


PAIRS = [("H", "H"), ("H", "C"), ("C", "C"), ("O", "H"), ("N", "Cl"), ("S", "I"), ("Br", "I"), ("Cs", "Cs")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_printed_formula_at_short_range(first: str, second: str) -> None:
    z1, z2 = atomic_numbers[first], atomic_numbers[second]
    r = 0.05
    length = 0.8854 * 0.529177 / (z1**0.23 + z2**0.23)
    screening = sum(c * math.exp(-e * r / length) for c, e in ZBL)
    energy = _energy(ZBLRepulsion(), first, second, torch.tensor([r], dtype=torch.float64)).item()
    assert energy == pytest.approx(14.399645 * z1 * z2 / r * screening, rel=1e-4)  # the envelope is still ~1


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_repulsive_and_monotonic_from_far_to_near(first: str, second: str) -> None:
    reach = REACH * (covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])
    distance = torch.linspace(0.8, 0.1, 71, dtype=torch.float64)
    energy = _energy(ZBLRepulsion(), first, second, distance)
    inside = distance < reach
    assert (energy[inside] > 0).all()
    assert (energy[~inside] == 0).all()
    assert (energy[inside].diff() > 0).all()


def test_two_continuous_derivatives_where_it_ends() -> None:
    repulsion = ZBLRepulsion()
    reach = REACH * (covalent_radii[6] + covalent_radii[8])

    def derivatives(distance: float) -> list[float]:
        r = torch.tensor([distance], dtype=torch.float64, requires_grad=True)
        energy = _energy(repulsion, "C", "O", r)
        (slope,) = torch.autograd.grad(energy.sum(), r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), r)
        return [energy.item(), slope.item(), curvature.item()]

    near, nearer = derivatives(reach - 1e-3), derivatives(reach - 1e-5)
    for order, (coarse, fine) in enumerate(zip(near, nearer, strict=True)):
        assert coarse != 0
        assert abs(fine) < 2 * abs(coarse) * 1e-2 ** (3 - order), f"derivative {order} does not go to zero"
    outside = torch.tensor([reach + 1e-9, 3.0], dtype=torch.float64)
    assert (_energy(repulsion, "C", "O", outside) == 0).all()


@pytest.mark.parametrize(("bond", "length"), [("NN", 1.10), ("CC", 1.20), ("CN", 1.16), ("OH", 0.96), ("HH", 0.74)])
def test_bonds_at_rest_hardly_feel_it(bond: str, length: float) -> None:
    at_rest = torch.tensor([length], dtype=torch.float64)
    assert _energy(ZBLRepulsion(), bond[0], bond[1], at_rest).item() < 0.03


def test_either_atom_gets_half() -> None:
    numbers = torch.tensor([8, 1])
    vectors = torch.tensor([[0.0, 0, 0.5], [0, 0, -0.5]], dtype=torch.float64)
    energies, _ = ZBLRepulsion()(numbers, torch.tensor([[0, 1], [1, 0]]), vectors)
    assert energies[0] == energies[1] > 0


def test_ends_smoothly_at_a_cutoff_shorter_than_the_radii(make_potential) -> None:
    """Large atoms reach farther than a short cutoff: the energy must not be cut off with a step."""
    from ase import Atoms

    from ase_geomol.graph import from_atoms

    with_it, without = (make_potential(elements=(37, 55), cutoff=2.0, repulsion=reach) for reach in (0.7, 0.0))
    energies = []
    for distance in (2.0 - 1e-6, 2.0 + 1e-6):
        graph = from_atoms(Atoms("Cs2", [[0, 0, 0], [0, 0, distance]]), 2.0)
        energies.append((with_it(graph).energy - without(graph).energy).item())
    assert abs(energies[0] - energies[1]) < 1e-9


def test_the_network_sees_distances_held_below_the_reach() -> None:
    reach = torch.full((200,), 1.2, dtype=torch.float64)
    seen = held(torch.linspace(0.1, 1.2, 200, dtype=torch.float64), reach)
    still = torch.linspace(0.1, 1.2, 200, dtype=torch.float64) < STILL * 1.2
    assert torch.equal(seen[still], seen[:1].expand(int(still.sum())))
    assert (seen[~still].diff() > 0).all()
    assert seen[0].item() == pytest.approx(1.2 * (1 + STILL) / 2, rel=1e-12)
    assert seen[-1].item() == pytest.approx(1.2, rel=1e-12)


def test_held_distances_have_three_continuous_derivatives() -> None:
    def derivatives(distance: float) -> list[float]:
        r = torch.tensor([distance], dtype=torch.float64, requires_grad=True)
        last, found = held(r, torch.ones_like(r)), []
        for _ in range(3):
            (last,) = torch.autograd.grad(last.sum(), r, create_graph=True)
            found.append(last.item())
        return found

    step = 1e-6
    assert derivatives(1 - step) == pytest.approx([1, 0, 0], abs=0.1)
    assert derivatives(STILL + step) == pytest.approx([0, 0, 0], abs=0.1)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_network_cannot_draw_atoms_together(first: str, second: str) -> None:
    """Whatever is learned of the distance that the network sees, below `STILL` only the repulsion pushes; a little
    above it, a slope of 3 eV/Å loses against it.
    """
    numbers = torch.tensor([atomic_numbers[first], atomic_numbers[second]])
    reach = REACH * covalent_radii[numbers.numpy()].sum()
    vectors = torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    edges = torch.tensor([[0, 1], [1, 0]])
    for share, slope_of_network in ((0.2, 1000.0), (0.5, 1000.0), (0.84, 1000.0), (0.86, 1.5), (0.88, 1.5)):
        r = torch.tensor(share * reach, dtype=torch.float64, requires_grad=True)
        energies, seen = ZBLRepulsion()(numbers, edges, vectors * r)
        attraction = slope_of_network * torch.linalg.vector_norm(seen, dim=-1).sum()
        (slope,) = torch.autograd.grad(energies.sum() + attraction, r)
        assert slope < 0


def test_far_vectors_are_handed_on_as_they_are() -> None:
    vectors = torch.tensor([[0.0, 0, 0.5], [0, 0, -0.5], [1.2, 0.3, 0], [-1.2, -0.3, 0]], dtype=torch.float64)
    numbers, edges = torch.tensor([8, 1, 1]), torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]])
    _, seen = ZBLRepulsion()(numbers, edges, vectors)
    assert torch.equal(seen[2:], vectors[2:])
    assert not torch.equal(seen[:2], vectors[:2])
    torch.testing.assert_close(seen[:2] / seen[:2].norm(dim=-1)[:, None], vectors[:2] / 0.5)
