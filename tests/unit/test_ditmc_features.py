"""Features of molecules: what is in them, and that they do not depend on how a molecule was written down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from benchmarks._graphs import bonds_of, centres_of
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from unit.small_ditmc import L_ALANINE, graph

from ase_geomol import InputError
from ase_geomol.models.ditmc import DRUGS, ORGANIC, MolecularGraph
from ase_geomol.models.ditmc.graph import ATOM_FEATURES, BOND_FEATURES, CIS, TRANS, UNREACHABLE
from ase_geomol.providers.features import graph_of
from ase_geomol.providers.molecules import Molecule, parse

MOLECULES = [
    L_ALANINE,
    "C[C@@H](N)C(=O)O",
    "C/C=C/[C@@H](F)Cl",
    r"C/C=C\C(C)=O",
    "C[S@](=O)c1ccccc1",
    "C[C@H]1CC[C@@H](C)CC1",
    "O[C@H](C(=O)O)[C@@H](O)C(=O)O",
    "CC(C)(C)[O]",
    "C[N+](C)(C)CC([O-])=O",
    "c1cc2cccc3ccc(c1)c23",
    "[2H]C([2H])([2H])O",
    "F/C(Cl)=C(Br)/I",
]


def shuffled(smiles: str, seed: int) -> tuple[Molecule, np.ndarray]:
    """A molecule with its atoms and bonds in another order, and the order (N,) in terms of the first."""
    mol = parse(smiles).mol
    order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
    renumbered = Chem.RenumberAtoms(mol, order.tolist())
    mixed = Chem.MolFromMolBlock(Chem.MolToMolBlock(embedded(renumbered)), removeHs=False)
    return parse(mixed), order


def embedded(mol: Chem.Mol) -> Chem.Mol:
    mol = Chem.Mol(mol)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.mark.parametrize("smiles", MOLECULES)
def test_the_order_of_atoms_does_not_matter(smiles):
    first = graph(smiles)
    for seed in range(5):
        if "[O]" in smiles or "2H" in smiles:  # the mol file would lose what they are
            mol = parse(smiles).mol
            order = np.random.default_rng(seed).permutation(mol.GetNumAtoms())
            molecule = parse(Chem.RenumberAtoms(mol, order.tolist()))
        else:
            molecule, order = shuffled(smiles, seed)
        second = graph_of(molecule, ORGANIC)
        assert torch.equal(second.numbers, first.numbers[order])
        assert torch.equal(second.atom_features, first.atom_features[order])
        assert torch.equal(second.hops, first.hops[order][:, order])
        assert torch.equal(second.sides, first.sides[order][:, order])
        torch.testing.assert_close(second.root, first.root[order][:, order])
        assert bonds_of(second, order) == bonds_of(first)
        assert centres_of(second, order) == centres_of(first)


def test_a_molecule_is_the_same_by_whatever_road_it_comes():
    for smiles in MOLECULES[:7]:
        molecule = parse(smiles)
        mol = embedded(molecule.mol)
        atoms = Atoms(molecule.numbers, mol.GetConformer().GetPositions(), info={"bonds": molecule.bonds})
        atoms.set_array("formal_charge", molecule.formal_charges)
        requests = [mol, Chem.Mol(mol.ToBinary()), Chem.MolFromMolBlock(Chem.MolToMolBlock(mol), removeHs=False), atoms]
        first = graph(smiles)
        for request in requests:
            second = graph_of(parse(request), ORGANIC)
            for name in ("numbers", "atom_features", "hops", "sides", "root"):
                assert torch.equal(getattr(second, name), getattr(first, name)), (smiles, name)
            assert bonds_of(second) == bonds_of(first)
            assert centres_of(second) == centres_of(first)


# Stereochemistry


def volumes(graph: MolecularGraph, positions: np.ndarray) -> list[float]:
    ends = positions[graph.centres.numpy()]
    return np.linalg.det(ends[:, :3] - ends[:, 3:]).tolist()


@pytest.mark.parametrize("smiles", [s for s in MOLECULES if "@" in s])
def test_the_volumes_of_stereocentres_are_positive(smiles):
    """In coordinates that RDKit makes of the molecule, whatever the order of its atoms."""
    for seed in range(8):
        molecule, _ = shuffled(smiles, seed)
        found = volumes(graph_of(molecule, ORGANIC), embedded(molecule.mol).GetConformer().GetPositions())
        assert len(found) == smiles.count("[C@") + smiles.count("[S@")
        assert min(found) > 0.5


def test_mirror_images_have_centres_of_the_other_hand():
    first, second = (centres_of(graph(smiles)) for smiles in MOLECULES[:2])
    assert [(four, not odd) for four, odd in second] == first
    assert len(first) == 1


def test_unspecified_stereochemistry_has_no_features():
    for smiles in ("CC(N)C(=O)O", "CC=CC", "CCO"):
        assert not len(graph(smiles).centres)
        assert not graph(smiles).sides.any()


@pytest.mark.parametrize("smiles", [s for s in MOLECULES if "/" in s])
def test_sides_are_those_of_coordinates(smiles):
    molecule, _ = shuffled(smiles, 3)
    sides = graph_of(molecule, ORGANIC).sides
    mol = embedded(molecule.mol)
    first, second = np.nonzero(np.triu(sides.numpy()))
    assert len(first) == 4
    paths = [Chem.GetShortestPath(mol, int(i), int(j)) for i, j in zip(first, second, strict=True)]
    angles = [abs(rdMolTransforms.GetDihedralDeg(mol.GetConformer(), *path)) for path in paths]
    for i, j, angle in zip(first, second, angles, strict=True):
        assert angle < 30 or angle > 150
        assert sides[i, j] == sides[j, i] == (CIS if angle < 30 else TRANS)


# What is in them


def test_sizes_and_a_molecule_by_hand():
    water = graph("O")
    assert water.atom_features.shape == (3, ATOM_FEATURES)
    assert water.bond_features.shape == (4, BOND_FEATURES)
    oxygen = set(water.atom_features[0].nonzero().flatten().tolist())
    # 2 hydrogens, no radical, 2 neighbours, sp3, no charge, in no ring
    assert oxygen == {2, 6, 13 + 2, 19 + 2, 25 + 5, 43}
    assert torch.equal(water.hops, torch.tensor([[0, 1, 1], [1, 0, 2], [1, 2, 0]]))


def test_every_feature_means_something():
    smiles = [*MOLECULES, "C#C", "C1CC1C1CCC1", "C1CCCCCC1", "C1CCCCCCC1", "C", "[CH2]", "[OH3+]", "FS(F)(F)(F)(F)F"]
    smiles += ["FP(F)(F)(F)F", "[NH4+]", "[Cl-]", "C1CC2CC1CC2", "C12C3C4C1C5C4C3C25", "[C-]#[O+]", "[SiH2]", "CC#N"]
    used = sum(graph(s).atom_features.sum(0) for s in smiles)
    unused = set((used == 0).nonzero().flatten().tolist())
    radicals, charges, rings = {9, 10, 11}, {25, 26, 27, 28, 32, 33, 34, 35, 36}, {47}
    assert unused == {5} | radicals | charges | rings


# What is refused


@pytest.mark.parametrize(
    ("smiles", "elements", "sentence"),
    [
        ("C[Fe]C", ORGANIC, "Atom 1 is Fe, which this provider does not know: H B C N O F Si P S Cl Br I"),
        ("CSi", DRUGS, None),
        ("C[Se]C", DRUGS, None),
        ("C[Xe]C", DRUGS, "Atom 1 is Xe"),
        ("N->B", ORGANIC, "The bond between atoms 0 and 1 is dative"),
    ],
)
def test_what_no_model_knows_is_refused(smiles, elements, sentence):
    molecule = parse(smiles.replace("Si", "[SiH3]"))
    if sentence is None:
        assert graph_of(molecule, elements).n_atoms == len(molecule)
        return
    with pytest.raises(InputError, match=sentence):
        graph_of(molecule, elements)


def test_more_atoms_than_a_byte_can_count():
    chain = graph("C" * 90)
    assert chain.n_atoms == 272
    assert chain.hops.max() == 91
    assert chain.bonds.max() == 271
    assert UNREACHABLE not in chain.hops
