"""What every potential must obey: subclass `PotentialPhysics`, give a ``potential``, run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from ase_geomol.checkpoint import Metadata, load_checkpoint, save_checkpoint
from ase_geomol.graph import collate, from_atoms, split
from ase_geomol.potential import Potential

RELATIVE = 1e-10
"""Agreement that float64 must keep under a symmetry, relative to the largest value (at least 1)."""
FORCE_TOLERANCE = 1e-6
"""eV/Å, against fourth-order central differences whose own error is below 1e-7."""
STRESS_TOLERANCE = 1e-6
"""eV/Å³, likewise."""

Build = Callable[[str], Atoms]


class PotentialPhysics:
    """The physics that an interatomic potential must obey in float64.

    A subclass gives a fixture ``potential`` (float64, evaluation mode) and, as class attributes, names of the
    structures in ``conftest.STRUCTURES`` whose elements it knows. A model that sees all atoms at once sets
    ``local = False`` and names no crystals.
    """

    molecules: Sequence[str] = ("atom", "ethanol", "water_dimer", "benzene", "co2", "methane", "squeezed")
    crystals: Sequence[str] = ("bulk", "triclinic", "slab", "chain", "squeezed_bulk")
    symmetric_molecules: Sequence[str] = ("benzene", "co2", "methane", "atom")
    perfect_crystals: Sequence[str] = ("fcc", "diamond")
    tiny_crystal: str | None = "triclinic"
    """A crystal whose cell is smaller than the cutoff."""
    layer: str | None = "slab"
    """A structure that is periodic in the plane only."""
    crossing: tuple[str, str] = ("H2O", "O")
    """A molecule of ASE's g2 set, and an element that crosses the cutoff of its first atom."""
    dimer_elements: Sequence[int] = ()
    """Atomic numbers whose pairs are brought together; default: all that the potential knows."""
    local = True
    rotation_tolerance: float = RELATIVE
    """Like `RELATIVE`, for what follows from rotations; larger for a model that integrates over points of a sphere."""

    @pytest.fixture
    def potential(self) -> Potential:
        raise NotImplementedError("give the potential under test")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        names = {
            "any_name": (*self.molecules, *self.crystals),
            "molecule_name": self.molecules,
            "crystal_name": self.crystals,
            "volume_name": [name for name in self.crystals if name != "chain"],
            "symmetric_name": self.symmetric_molecules,
            "perfect_name": self.perfect_crystals,
        }
        for argument, values in names.items():
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, values)

    # Symmetries

    @pytest.mark.parametrize("determinant", [1, -1])
    def test_rotation_and_reflection(
        self, potential: Potential, make_structure: Build, any_name: str, determinant: int
    ) -> None:
        atoms = make_structure(any_name)
        rotation = random_rotation(determinant)
        turned = atoms.copy()
        turned.set_cell(np.asarray(atoms.cell) @ rotation.T)
        turned.positions = atoms.positions @ rotation.T
        before, after = evaluate(potential, atoms), evaluate(potential, turned)
        near = self.rotation_tolerance
        changes = after["energies"] - before["energies"]  # of atoms, whose own energies are large beside what turns
        assert_close(changes, np.zeros_like(changes), near)
        assert_close(after["energy"] - before["energy"], changes.sum())
        assert_close(after["forces"], before["forces"] @ rotation.T, near)
        if "stress" in before:
            assert_close(after["stress"], rotation @ before["stress"] @ rotation.T, near)

    def test_translation(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        atoms = make_structure(any_name)
        moved = atoms.copy()
        moved.positions += [3.7, -11.3, 0.9]
        assert_same(evaluate(potential, moved), evaluate(potential, atoms))

    def test_permutation(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        atoms = make_structure(any_name)
        order = np.random.default_rng(1).permutation(len(atoms))
        before, after = evaluate(potential, atoms), evaluate(potential, atoms[order])
        assert_close(after["energy"], before["energy"])
        assert_close(after["energies"], before["energies"][order])
        assert_close(after["forces"], before["forces"][order])

    # Derivatives

    def test_forces_are_the_gradient(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        atoms = make_structure(any_name)
        forces = evaluate(potential, atoms)["forces"]
        slopes = central_difference(lambda rows: energies_of(potential, rows), atoms)
        assert np.abs(forces + slopes.reshape(-1, 3)).max() < FORCE_TOLERANCE
        if len(atoms) > 1 and any_name not in self.symmetric_molecules:
            assert np.abs(forces).max() > 1e-2, "a test of forces needs forces"

    def test_stress_is_the_strain_derivative(
        self, potential: Potential, make_structure: Build, volume_name: str
    ) -> None:
        atoms = make_structure(volume_name)
        stress = evaluate(potential, atoms)["stress"]
        by_strain = np.zeros((3, 3))
        for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
            direction = np.zeros((3, 3))
            direction[i, j] = direction[j, i] = 1.0 if i == j else 0.5

            def strained(step: float, direction: np.ndarray = direction) -> Atoms:
                moved = atoms.copy()
                moved.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + step * direction), scale_atoms=False)
                moved.positions = atoms.positions @ (np.eye(3) + step * direction)
                return moved

            energies = energies_of(potential, [strained(step) for step in STEPS])
            by_strain[i, j] = by_strain[j, i] = WEIGHTS @ energies / atoms.get_volume()
        assert np.abs(stress - by_strain).max() < STRESS_TOLERANCE
        assert np.abs(stress).max() > 1e-4, "a test of stress needs stress"

    def test_hessian_is_the_derivative_of_forces(
        self, potential: Potential, make_structure: Build, any_name: str
    ) -> None:
        atoms = make_structure(any_name)
        hessian = hessian_of(potential, atoms)
        by_forces = -central_difference(lambda rows: forces_of(potential, rows), atoms)
        assert np.abs(hessian - hessian.T).max() < RELATIVE
        assert np.abs(hessian - by_forces).max() < FORCE_TOLERANCE * max(1.0, np.abs(hessian).max())

    def test_energies_add_up(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        result = evaluate(potential, make_structure(any_name))
        assert_close(result["energies"].sum(), result["energy"])

    def test_no_net_force_and_no_torque(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        atoms = make_structure(any_name)
        forces = evaluate(potential, atoms)["forces"]
        assert_close(forces.sum(0), np.zeros(3))
        if not atoms.pbc.any():
            assert_close(np.cross(atoms.positions, forces).sum(0), np.zeros(3), self.rotation_tolerance)

    # Size and periodicity

    def test_far_copies_double_the_energy(
        self, potential: Potential, make_structure: Build, molecule_name: str
    ) -> None:
        self._only_local()
        atoms = make_structure(molecule_name)
        far = atoms.copy()
        far.rotate(50, (1, 1, 0))
        far.translate([60.0, 5.0, 0.0])
        one, other = evaluate(potential, atoms), evaluate(potential, far)
        both = evaluate(potential, atoms + far)
        assert_close(both["energy"], one["energy"] + other["energy"])
        assert_close(both["energy"], 2 * one["energy"], self.rotation_tolerance)
        assert_close(both["forces"], np.concatenate([one["forces"], other["forces"]]))

    def test_supercell_doubles_the_energy(self, potential: Potential, make_structure: Build, crystal_name: str) -> None:
        atoms = make_structure(crystal_name)
        axis = int(np.flatnonzero(atoms.pbc)[0])
        repeats = [2 if i == axis else 1 for i in range(3)]
        one, two = evaluate(potential, atoms), evaluate(potential, atoms.repeat(repeats))
        assert_close(two["energy"], 2 * one["energy"])
        assert_close(two["forces"], np.tile(one["forces"], (2, 1)))
        if "stress" in one:
            assert_close(two["stress"], one["stress"])

    def test_cell_smaller_than_the_cutoff(self, potential: Potential, make_structure: Build) -> None:
        """A tiny cell and its supercell, larger than the cutoff, are the same crystal."""
        if self.tiny_crystal is None:
            pytest.skip("this potential knows no crystals")
        atoms = make_structure(self.tiny_crystal)
        assert atoms.cell.lengths().max() < (potential.cutoff or 0)
        many = atoms.repeat(4)
        one, all_of_them = evaluate(potential, atoms), evaluate(potential, many)
        assert_close(all_of_them["energy"], 64 * one["energy"])
        assert_close(all_of_them["forces"], np.tile(one["forces"], (64, 1)))

    def test_choice_of_images(self, potential: Potential, make_structure: Build, crystal_name: str) -> None:
        atoms = make_structure(crystal_name)
        images = np.random.default_rng(2).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
        moved = atoms.copy()
        moved.positions += images @ np.asarray(atoms.cell)
        assert_same(evaluate(potential, moved), evaluate(potential, atoms))

    def test_choice_of_cell(self, potential: Potential, make_structure: Build, crystal_name: str) -> None:
        """Another cell of the same lattice gives the same crystal."""
        atoms = make_structure(crystal_name)
        periodic = np.flatnonzero(atoms.pbc)
        change = np.eye(3, dtype=int)
        if len(periodic) > 1:
            change[periodic[0], periodic[1]] = 1
        if len(periodic) > 2:
            change[periodic[2], periodic[0]] = -2
        if len(periodic) == 1:
            change[periodic[0], periodic[0]] = -1
        assert abs(round(np.linalg.det(change))) == 1
        other = atoms.copy()
        other.set_cell(change @ np.asarray(atoms.cell))
        assert_same(evaluate(potential, other), evaluate(potential, atoms))

    def test_no_interaction_across_an_open_side(self, potential: Potential, make_structure: Build) -> None:
        """Along an axis that is not periodic, the cell vector has no meaning."""
        if self.layer is None:
            pytest.skip("this potential knows no crystals")
        atoms = make_structure(self.layer)
        atoms.center(vacuum=1.0, axis=2)
        tight = evaluate(potential, atoms)
        atoms.center(vacuum=30.0, axis=2)
        wide = evaluate(potential, atoms)
        atoms.pbc = True
        separated = evaluate(potential, atoms)
        for key in ("energy", "forces"):
            assert_close(tight[key], wide[key])
            assert_close(separated[key], wide[key])

    # Smoothness

    def test_smooth_as_a_neighbour_crosses_the_cutoff(self, potential: Potential) -> None:
        self._only_local()
        assert_smooth_crossing(potential, *self.crossing)

    def test_symmetric_molecules(self, potential: Potential, make_structure: Build, symmetric_name: str) -> None:
        """Forces keep the symmetry; the Hessian is finite and continuous around it."""
        atoms = make_structure(symmetric_name)
        forces = evaluate(potential, atoms)["forces"]
        centre = int(np.argmin(np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1)))
        if symmetric_name in ("co2", "methane", "atom"):
            assert np.abs(forces[centre]).max() < self.rotation_tolerance, "the central atom feels no force"
        if symmetric_name == "benzene":
            assert np.abs(forces[:, 2]).max() < self.rotation_tolerance, "no force leaves the plane"
        if symmetric_name == "co2":
            assert np.abs(forces[:, :2]).max() < self.rotation_tolerance, "no force bends the line"
        assert_continuous_hessian(potential, atoms, centre)

    def test_perfect_crystals(self, potential: Potential, make_structure: Build, perfect_name: str) -> None:
        atoms = make_structure(perfect_name).repeat((2, 2, 1))
        assert np.abs(evaluate(potential, atoms)["forces"]).max() < self.rotation_tolerance
        assert_continuous_hessian(potential, atoms, 0)

    # Close contacts

    def test_dimers_never_collapse(self, potential: Potential) -> None:
        """Below 0.3 Å the energy of any two atoms only rises as they approach, and pushes them apart."""
        distances = np.linspace(0.3, 0.1, 21)
        pairs = list(combinations_with_replacement(self.dimer_elements or potential.elements, 2))
        dimers = [Atoms(list(pair), [[0, 0, 0], [0, 0, r]]) for pair in pairs for r in distances]
        energies = energies_of(potential, dimers).reshape(len(pairs), -1)
        push = forces_of(potential, dimers).reshape(len(pairs), -1, 2, 3)[:, :, 1, 2]
        assert (np.diff(energies, axis=1) > 0).all()
        assert (push > 0).all()
        bound = energies_of(potential, [Atoms(list(pair), [[0, 0, 0], [0, 0, 50.0]]) for pair in pairs])
        assert (energies[:, -1] > bound + 10.0).all()

    # Computation

    @pytest.mark.parametrize("kinds", ["molecules", "molecules and crystals"])
    def test_batch_equals_single(self, potential: Potential, make_structure: Build, kinds: str) -> None:
        """Whatever the sizes, and whether or not a crystal among them changes how the others are computed."""
        crystals = self.crystals if "crystals" in kinds else ()
        names = (*self.molecules, *(name for name in crystals if name != "chain"))
        rows = [make_structure(name) for name in names]
        graph = collate([from_atoms(atoms, potential.cutoff) for atoms in rows])
        batch = potential(graph, stress=False)
        for index, (atoms, energies, forces) in enumerate(
            zip(rows, split(batch.energies, graph), split(batch.forces, graph), strict=True)
        ):
            single = evaluate(potential, atoms)
            assert_close(batch.energy[index].item(), single["energy"])
            assert_close(energies.numpy(), single["energies"])
            assert_close(forces.numpy(), single["forces"])

    def test_stress_of_a_batch_equals_single(self, potential: Potential, make_structure: Build) -> None:
        rows = [make_structure(name) for name in self.crystals if name != "chain"]
        if not rows:
            pytest.skip("this potential knows no crystals")
        batch = potential(collate([from_atoms(atoms, potential.cutoff) for atoms in rows]), stress=True)
        for atoms, stress in zip(rows, batch.stress, strict=True):
            assert_close(stress.numpy(), evaluate(potential, atoms)["stress"])

    def test_float32_is_close_to_float64(self, potential: Potential, make_structure: Build, any_name: str) -> None:
        atoms = make_structure(any_name)
        exact = evaluate(potential, atoms)
        rounded = evaluate(deepcopy(potential).set_dtype(torch.float32), atoms)
        for key, value in exact.items():
            assert np.abs(rounded[key] - value).max() < 2e-5 * max(1.0, np.abs(value).max()), key

    def test_same_after_save_and_load(self, potential: Potential, make_structure: Build, tmp_path: Path) -> None:
        path = tmp_path / "saved.safetensors"
        save_checkpoint(path, potential, Metadata(name="saved", theory="none", training_data="none"))
        loaded = load_checkpoint(path).potential.set_dtype(torch.float64)
        for name in (*self.molecules, *self.crystals):
            atoms = make_structure(name)
            before, after = evaluate(potential, atoms), evaluate(loaded, atoms)
            for key, value in before.items():
                np.testing.assert_array_equal(after[key], value)

    def test_repeated_evaluation_is_identical(self, potential: Potential, make_structure: Build) -> None:
        atoms = make_structure(self.molecules[1])
        first, second = evaluate(potential, atoms), evaluate(potential, atoms)
        np.testing.assert_array_equal(first["forces"], second["forces"])

    # Dynamics

    def test_constant_energy_dynamics(self, potential: Potential, make_structure: Build) -> None:
        """Momentum and angular momentum stay; the energy error falls as the square of the time step."""
        atoms = make_structure(self.molecules[1])
        set_temperature(atoms, 300)
        errors, kinetic = [], 0.0
        for step, count in [(0.2, 20), (0.1, 40)]:
            moving = atoms.copy()
            moving.calc = Bare(potential)
            momentum, angular = moving.get_momenta().sum(0), moving.get_angular_momentum()
            start = moving.get_total_energy()
            totals: list[float] = []
            with VelocityVerlet(moving, step * units.fs) as dynamics:
                dynamics.attach(lambda totals=totals, moving=moving: totals.append(moving.get_total_energy()))
                dynamics.run(count)
            errors.append(np.abs(np.array(totals) - start).max())
            kinetic = moving.get_kinetic_energy()
            assert_close(moving.get_momenta().sum(0), momentum)
            assert_close(moving.get_angular_momentum(), angular, self.rotation_tolerance)
        assert errors[1] < 1e-2 * kinetic
        assert 3.0 < errors[0] / errors[1] < 5.0, f"energy errors {errors} do not fall as the step squared"

    def _only_local(self) -> None:
        if not self.local:
            pytest.skip("the global form sees all atoms: it is neither extensive nor cut off")


class Bare(Calculator):
    """The potential in ASE without the package's calculator: a fresh neighbour list at every call."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = evaluate(self.potential, self.atoms)


STEPS = 1e-4 * np.array([-2, -1, 1, 2])
WEIGHTS = np.array([1, -8, 8, -1]) / (12 * 1e-4)
"""Fourth-order central difference: ``f'(0) = sum_k WEIGHTS_k f(STEPS_k) + O(h^4 f^(5)/30)``.

The step is small since energies are only C² where an envelope ends: there the error is ``O(h^2)`` times the jump
of the third derivative. Rounding adds about 1e-15 E / h, some 1e-10 eV/Å.
"""


def evaluate(potential: Potential, atoms: Atoms) -> dict[str, np.ndarray]:
    """Energy, energies, forces and, where there is a volume, stress (3, 3) of one structure."""
    has_volume = bool(atoms.cell.rank == 3 and atoms.pbc.any())
    prediction = potential(from_atoms(atoms, potential.cutoff), stress=has_volume)
    result = {
        "energy": prediction.energy[0].item(),
        "energies": prediction.energies.numpy(),
        "forces": prediction.forces.numpy(),
    }
    if has_volume:
        result["stress"] = prediction.stress[0].numpy()
    return result


def energies_of(potential: Potential, rows: Iterable[Atoms]) -> np.ndarray:
    """Energies (S,) of many structures, in batches."""
    return np.concatenate([batch.energy.numpy() for batch in _batches(potential, rows, forces=False)])


def forces_of(potential: Potential, rows: Iterable[Atoms]) -> np.ndarray:
    """Forces (S, 3N) of many structures of the same size, in batches."""
    forces = np.concatenate([batch.forces.numpy() for batch in _batches(potential, rows, forces=True)])
    rows = list(rows)
    return forces.reshape(len(rows), -1)


def _batches(potential: Potential, rows: Iterable[Atoms], *, forces: bool):
    graphs = [from_atoms(atoms, potential.cutoff) for atoms in rows]
    for start in range(0, len(graphs), 64):
        yield potential(collate(graphs[start : start + 64]), forces=forces)


def hessian_of(potential: Potential, atoms: Atoms) -> np.ndarray:
    """Second derivatives (3N, 3N)."""
    return potential.hessian(from_atoms(atoms, potential.cutoff)).numpy()


def central_difference(function: Callable[[list[Atoms]], np.ndarray], atoms: Atoms) -> np.ndarray:
    """Derivatives (3N, …) by all coordinates of a function of structures that returns (S, …)."""
    rows = []
    for atom in range(len(atoms)):
        for axis in range(3):
            for step in STEPS:
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                rows.append(moved)
    values = function(rows)
    return np.einsum("k,ck...->c...", WEIGHTS, values.reshape(3 * len(atoms), len(STEPS), *values.shape[1:]))


def set_temperature(atoms: Atoms, kelvin: float, seed: int = 0) -> None:
    """Give momenta drawn from the Maxwell-Boltzmann distribution."""
    spread = np.sqrt(atoms.get_masses() * units.kB * kelvin)
    atoms.set_momenta(spread[:, None] * np.random.default_rng(seed).normal(size=(len(atoms), 3)))


def random_rotation(determinant: int = 1, seed: int = 0) -> np.ndarray:
    """A random orthogonal matrix of the given determinant."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if round(np.linalg.det(q)) == determinant else -q


def assert_close(actual: np.ndarray | float, expected: np.ndarray | float, tolerance: float = RELATIVE) -> None:
    """Equal to ``tolerance`` times the largest value, or 1 if that is larger."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    worst, allowed = np.abs(actual - expected).max(), tolerance * max(1.0, np.abs(expected).max())
    assert worst <= allowed, f"{worst:.3g} apart, {allowed:.3g} allowed"


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """All results equal to `RELATIVE`."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value)


def assert_smooth_crossing(potential: Potential, host: str, visitor: str) -> None:
    """Energy, forces and Hessian have one limit as an atom reaches the cutoff from inside and from outside.

    The difference between both sides must shrink with the distance to the cutoff: from 1e-2 to 1e-5 Å it falls
    by 1e3 where the third derivative jumps, and does not fall where the value itself does.
    """
    from ase.build import molecule

    cutoff = potential.cutoff
    assert cutoff is not None
    atoms = molecule(host)
    direction = np.array([0.48, -0.6, 0.64])
    differences: dict[str, list[float]] = {"energy": [], "forces": [], "hessian": []}
    alone = evaluate(potential, atoms)["forces"]
    near = evaluate(potential, atoms + Atoms(visitor, [atoms.positions[0] + 0.7 * cutoff * direction]))["forces"]
    assert np.abs(near[: len(atoms)] - alone).max() > 1e-4, "the visitor is not felt inside the cutoff"
    for step in (1e-2, 1e-5):
        sides = []
        for distance in (cutoff - step, cutoff + step):
            both = atoms + Atoms(visitor, [atoms.positions[0] + distance * direction])
            sides.append({**evaluate(potential, both), "hessian": hessian_of(potential, both)})
        for key, values in differences.items():
            values.append(float(np.abs(sides[0][key] - sides[1][key]).max()))
    for key, (coarse, fine) in differences.items():
        assert fine <= 1e-2 * coarse + 1e-11, f"{key} jumps at the cutoff: {coarse:.2e} at 1e-2 Å, {fine:.2e} at 1e-5 Å"
    assert differences["hessian"][0] > 1e-7, "the crossing is not felt at all"


def assert_continuous_hessian(potential: Potential, atoms: Atoms, atom: int) -> None:
    """The Hessian is finite at a symmetric structure, and is its own limit as an atom leaves the symmetry.

    Displacements of 1e-4, 1e-3 and 1e-2 Å must change it in proportion (or less); around a crease it would
    already have changed fully at the smallest.
    """
    hessian = hessian_of(potential, atoms)
    assert np.isfinite(hessian).all()
    changes = []
    for size in (1e-4, 1e-3, 1e-2):
        moved = atoms.copy()
        moved.positions[atom] += size * np.array([0.64, 0.48, -0.6])
        changes.append(np.abs(hessian_of(potential, moved) - hessian).max())
    floor = 1e-11 * max(1.0, np.abs(hessian).max())
    assert changes[0] <= 2e-2 * changes[2] + floor, f"the Hessian has a crease: changes {changes}"
    assert changes[1] <= 2e-1 * changes[2] + floor, f"the Hessian has a crease: changes {changes}"
