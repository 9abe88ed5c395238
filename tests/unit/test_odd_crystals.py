"""Crystals as users bring them: strange ones get a sentence or the right answer, from both networks."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from ase_geomol import GeoMolCalculator, InputError


@pytest.fixture(scope="module", params=["geomformer", "est", "est-crystal"])
def calculator(request: pytest.FixtureRequest, make_checkpoint) -> GeoMolCalculator:
    if request.param == "est-crystal":
        return GeoMolCalculator(request.param, device="cpu", dtype="float64")
    options = {"message": "attention"} if request.param == "est" else {}
    checkpoint = make_checkpoint(seed=2, architecture=request.param, **options)
    return GeoMolCalculator(checkpoint, device="cpu", dtype="float64")


def answers(atoms: Atoms, calculator: GeoMolCalculator) -> tuple[float, np.ndarray]:
    atoms.calc = calculator
    return atoms.get_potential_energy(), atoms.get_forces()


def test_an_unknown_element_is_named(calculator: GeoMolCalculator) -> None:
    with pytest.raises(InputError, match="Atom 0 is Xe, which this potential does not know; it knows: H "):
        answers(bulk("Xe", "fcc", a=6.2), calculator)


@pytest.mark.parametrize("cubic", [False, True])
def test_overlapping_atoms_are_named(calculator: GeoMolCalculator, cubic: bool) -> None:
    crystal = bulk("Al", "fcc", a=4.05, cubic=cubic)
    crystal += Atoms("Si", crystal.positions[:1] + crystal.cell[0] + 0.01)
    with pytest.raises(InputError, match=r"Atoms 0 \(Al\) and \d \(Si\) coincide: they are 0.0173 Å apart"):
        answers(crystal, calculator)


def test_a_cell_of_one_angstrom_is_the_crystal_it_says(calculator: GeoMolCalculator) -> None:
    dense = Atoms("Al", cell=[1, 1, 1], pbc=True)
    energy, forces = answers(dense, calculator)
    assert np.isfinite(energy)
    assert np.abs(forces).max() < 1e-6
    double, _ = answers(dense * (2, 1, 1), calculator)
    assert double == pytest.approx(2 * energy, rel=1e-9)


def test_one_atom_is_a_quarter_of_its_cube(calculator: GeoMolCalculator) -> None:
    one, forces = answers(bulk("Al", "fcc", a=4.05), calculator)
    four, _ = answers(bulk("Al", "fcc", a=4.05, cubic=True), calculator)
    assert four == pytest.approx(4 * one, rel=1e-9)
    assert np.abs(forces).max() < 1e-9


def test_a_slab_without_vacuum_is_a_stack_of_slabs(calculator: GeoMolCalculator) -> None:
    slab = fcc111("Al", (1, 1, 3), a=4.05, periodic=True)
    assert slab.pbc.all()
    energy, _ = answers(slab, calculator)
    fcc, _ = answers(bulk("Al", "fcc", a=4.05), calculator)
    assert energy == pytest.approx(3 * fcc, rel=1e-9)


def test_a_slab_open_above_needs_no_third_vector(calculator: GeoMolCalculator) -> None:
    slab = fcc111("Al", (1, 1, 3), a=4.05, vacuum=20)
    slab.rattle(0.05, seed=0)
    energies = []
    for height, pbc in ((slab.cell[2], (True, True, True)), ([0, 0, 0], (True, True, False))):
        slab.set_cell([slab.cell[0], slab.cell[1], height], scale_atoms=False)
        slab.pbc = pbc
        energies.append(answers(slab.copy(), calculator)[0])
    assert energies[1] == pytest.approx(energies[0], rel=1e-12)


@pytest.mark.parametrize("pbc", [(True, False, False), (False, True, True), (True, False, True)])
def test_directions_that_are_not_periodic_are_as_if_there_were_vacuum(calculator: GeoMolCalculator, pbc) -> None:
    atoms = bulk("Al", "fcc", a=4.05, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.pbc = pbc
    energy, forces = answers(atoms.copy(), calculator)
    for axis, periodic in enumerate(pbc):
        if not periodic:
            atoms.cell[axis, axis] += 20.0
    atoms.pbc = True
    apart, other_forces = answers(atoms, calculator)
    assert energy == pytest.approx(apart, rel=1e-9)
    assert np.allclose(forces, other_forces, atol=1e-9)
