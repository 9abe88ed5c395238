"""Cumulated double bonds: how the planes at their ends lie, and marks of stereochemistry that nobody makes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from rdkit import Chem

from ase_geomol import RDKitProvider
from ase_geomol.errors import InputError
from ase_geomol.providers.axes import rows_of_double_bonds
from ase_geomol.providers.geometry import bond_errors
from ase_geomol.providers.molecules import parse


@pytest.fixture(scope="module")
def rdkit() -> RDKitProvider:
    return RDKitProvider()


def atropisomer() -> Chem.Mol:
    mol = Chem.MolFromSmiles("Cc1cccc(F)c1-c1c(C)cccc1Cl")
    bond = mol.GetBondBetweenAtoms(7, 8)
    bond.SetStereoAtoms(1, 9)
    bond.SetStereo(Chem.BondStereo.STEREOATROPCW)
    return mol


def allene() -> Chem.Mol:
    mol = Chem.MolFromSmiles("FC=C=CCl")
    mol.GetAtomWithIdx(2).SetChiralTag(Chem.ChiralType.CHI_TETRAHEDRAL_CW)
    return mol


@pytest.mark.parametrize(
    ("smiles", "rows"),
    [
        ("C=C", []),
        ("C=CC=C", []),
        ("CC=C=CC", [(1, 2, 3)]),
        ("C=C=C=C", [(0, 1, 2, 3)]),
        ("CC=C=O", []),
        ("CN=C=NC", []),
        ("C1CC1=C=C1CC1", [(2, 3, 4)]),
        ("C=C=CC=C=C=C", [(0, 1, 2), (3, 4, 5, 6)]),
    ],
)
def test_rows_of_double_bonds(smiles, rows):
    assert sorted(rows_of_double_bonds(parse(smiles).mol)) == rows


@pytest.mark.parametrize(
    ("smiles", "looked_at"), [("C=C=C", 1), ("C1CC=C=CC1", 0), ("C1CCCCCC=C=CCC1", 1), ("C[C]=C=CC", 0)]
)
def test_ends_without_a_plane_and_small_rings_are_free(smiles, looked_at):
    assert len(parse(smiles).axes) == looked_at


@pytest.mark.parametrize("smiles", ["CC=C=CC", "FC=C=CCl", "CC=C=CB(O)O", "CC=C=C=CC", "CC=C=C=C=CC", "C1CC1=C=C1CC1"])
def test_rdkit_makes_them_right_at_the_first_attempt(smiles, rdkit):
    """Neither MMFF94s nor UFF knows how they lie, and distance geometry knows allenes only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = rdkit.sample(smiles, 4, attempts=1)
    assert len(ensemble) == 4
    (axis,) = parse(smiles).axes
    for atoms in ensemble:
        cosine = np.cos(np.radians(atoms.get_dihedral(*axis.torsion)))
        assert abs(cosine) < 0.1 if axis.perpendicular else abs(cosine) > 0.99
        assert atoms.info["method"].endswith("cumulated double bonds held")
    assert "held" not in rdkit.sample("CC=CC")[0].info["method"]


@pytest.mark.parametrize(("smiles", "right", "wrong"), [("CC=C=CC", 60, 50), ("CC=C=C=CC", 30, 40)])
def test_twisted_ones_are_noticed(smiles, right, wrong, rdkit):
    atoms, molecule = rdkit.sample(smiles)[0], parse(smiles)
    (axis,) = molecule.axes
    first, *_, last = axis.chain
    for angle in (right, wrong):
        atoms.set_dihedral(*axis.torsion, angle, indices=_beyond(atoms, molecule.mol, last, axis.chain))
        errors = [f"the double bonds between atoms {first} and {last} are twisted to {angle} degrees"]
        assert bond_errors(molecule, atoms.positions) == (errors if angle == wrong else [])


def _beyond(atoms: Atoms, mol: Chem.Mol, end: int, chain: tuple[int, ...]) -> list[int]:
    """Atoms that turn with the end of a row."""
    found, waiting = set[int](), [end]
    while waiting:
        index = waiting.pop()
        found.add(index)
        around = (atom.GetIdx() for atom in mol.GetAtomWithIdx(index).GetNeighbors())
        waiting += [other for other in around if other not in found and other not in chain]
    return sorted(found)


@pytest.mark.parametrize(
    ("request_", "where", "kind"),
    [
        ("C[Pt@SP1](F)(Cl)Br", "atom 1", "square planar"),
        ("F[P@TB1](Cl)(F)(F)F", "atom 1", "trigonal bipyramidal"),
        ("F[S@OH1](Cl)(Cl)(F)(F)F", "atom 1", "octahedral"),
        ("FC=[C@]=CCl", "atoms 1, 2, 3", "cumulated double bonds"),
        ("FC=[C@AL1]=CCl", "atoms 1, 2, 3", "cumulated double bonds"),
        ("C/C=C=C=C/C", "atoms 1, 2, 3, 4", "cumulated double bonds"),
        ("[H]/C(C)=C=C=C/C", "atoms 1, 3, 4, 5", "cumulated double bonds"),
        ("C1CCCC/C=C/1", "the bond between atoms 5 and 6", "a trans double bond in a ring of 7"),
        ("C/C1=C(/F)CCC1", "the bond between atoms 1 and 2", "a trans double bond in a ring of 5"),
        ("F/C1=C\\CCC1", "the bond between atoms 1 and 2", "a trans double bond in a ring of 5"),
        ("C/C=C/C1=C(/C)CCC1", "the bond between atoms 3 and 4", "a trans double bond in a ring of 5"),
        (allene(), "atoms 1, 2, 3", "cumulated double bonds"),
        (atropisomer(), "the bond between atoms 7 and 8", "an atropisomer"),
    ],
)
def test_marks_that_nobody_makes_are_refused(request_, where, kind):
    message = f"asks at {where} for stereochemistry that is not made, .*{kind}: leave the mark out to get any isomer."
    with pytest.raises(InputError, match=message):
        parse(request_)


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](C)C",
        "C[N@](F)CC",
        "CC=[C@]=C",
        "CC=[C@]=C(C)C",
        "C/C=C=C/C",
        "C/C=C=C=CC",
        "F/C=C/C=C=C=C/C=C/F",
        "C1CCC/C=C/CC1",
        "F/C1=C/CCC1",
        "C/C=C/C1=C(/C=C/C)CCC1",
        "F/C=C=C=C(/C)C",
        "C[Pt@SP1](C)(C)C",
        "F[P@TB1](F)(F)(F)F",
        "F[S@OH1](Cl)(F)(F)(F)F",
    ],
)
def test_marks_that_mean_nothing_are_fine(smiles):
    assert parse(smiles).smiles == smiles
