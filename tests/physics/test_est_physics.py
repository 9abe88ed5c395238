"""EST with each of its messages obeys physics, as exactly as its points allow."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from physics.mixin import PotentialPhysics, assert_close, evaluate, random_rotation

from ase_geomol.graph import from_atoms
from ase_geomol.potential import Potential


class TestZonal(PotentialPhysics):
    """The message of the paper, the default; with few points, since each edge has all of them."""

    options: dict[str, object] = {"points": "icosahedral-72", "zonal_nodes": 8}  # noqa: RUF012
    rotation_tolerance = 1e-4
    seed = 5

    @pytest.fixture
    def potential(self, make_potential) -> Potential:
        return make_potential(self.seed, "est", **self.options)


class TestGata(TestZonal):
    options = {"message": "gata"}  # noqa: RUF012
    rotation_tolerance = 1e-6
    seed = 3


class TestSO2(TestGata):
    options = {"message": "so2"}  # noqa: RUF012
    seed = 8


class TestGraphAttention(TestGata):
    options = {"message": "graph_attention"}  # noqa: RUF012
    seed = 13


class TestAttention(TestGata):
    options = {"message": "attention"}  # noqa: RUF012
    seed = 12


class TestSingleAtoms(TestAttention):
    """Molecules, too, are computed as single atoms with their neighbours, like everything periodic."""

    @pytest.fixture(autouse=True)
    def single_atoms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ase_geomol.nn.blocks.LARGEST_BLOCK", 0)


class TestPointNorm(TestGata):
    """The paper's norm at each point, with enough points."""

    options = {"message": "gata", "norm": "point"}  # noqa: RUF012
    rotation_tolerance = 1e-3
    seed = 5


class TestPaper(TestZonal):
    """The paper's mode as a whole: its message, its norm, its 30 points; all but rotations is exact all the same."""

    options = {"mode": "paper", "heads": 1, "zonal_nodes": 8}  # noqa: RUF012
    rotation_tolerance = 0.15


def test_exact_mode_turns_more_exactly_than_the_paper(make_potential, make_structure):
    changes = []
    for test in (TestZonal, TestPaper):
        potential, atoms = make_potential(test.seed, "est", **test.options), make_structure("ethanol")
        turned = Atoms(atoms.numbers, atoms.positions @ random_rotation().T)
        changes.append(abs(evaluate(potential, turned)["energy"] - evaluate(potential, atoms)["energy"]))
    assert changes[0] < 1e-2 * changes[1]


@pytest.mark.parametrize("mirror_symmetric", [True, False])
def test_mirror_images_differ_only_where_wanted(make_potential, make_structure, mirror_symmetric: bool):
    """Turns leave all as it is; a mirror image of a molecule without symmetry is another molecule, or is not."""
    potential = make_potential(8, "est", message="so2", mirror_symmetric=mirror_symmetric)
    atoms = make_structure("ethanol")
    plain = evaluate(potential, atoms)
    for determinant in (1, -1):
        rotation = random_rotation(determinant)
        turned = evaluate(potential, Atoms(atoms.numbers, atoms.positions @ rotation.T))
        if determinant == 1 or mirror_symmetric:
            assert_close(turned["energy"], plain["energy"], 1e-6)
            assert_close(turned["forces"], plain["forces"] @ rotation.T, 1e-6)
        else:
            assert np.abs(turned["energies"] - plain["energies"]).max() > 1e-3
            assert np.abs(turned["forces"] - plain["forces"] @ rotation.T).max() > 1e-3


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize(
    "test", [TestZonal, TestGata, TestSO2, TestGraphAttention, TestAttention], ids=lambda test: test.__name__
)
def test_direct_forces_turn_with_the_atoms(make_potential, make_structure, test: type[TestZonal], determinant: int):
    potential = make_potential(test.seed, "est", **test.options, direct_forces=True)
    atoms, rotation = make_structure("ethanol"), random_rotation(determinant)
    plain, turned = (
        potential(from_atoms(Atoms(atoms.numbers, positions), potential.cutoff))
        for positions in (atoms.positions, atoms.positions @ rotation.T + 1.0)
    )
    assert_close(turned.direct_forces.numpy(), plain.direct_forces.numpy() @ rotation.T, test.rotation_tolerance)
    assert plain.direct_forces.abs().max() > 1e-2
    assert (plain.direct_forces - plain.forces).abs().max() > 1e-2, "they are no gradient"
