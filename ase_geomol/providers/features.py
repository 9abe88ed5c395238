"""What a conformer model is told of a molecule: its graph as tensors.

Features are those of a `Molecule`: there is one way to it, whatever comes in, so that they do not depend on how the
molecule came about, nor on the order of its atoms and bonds. Two of the paper's features would break this. The implicit
valence is left out, as it is zero here. RDKit's chiral tag refers to the order of bonds, which a network cannot see;
instead four atoms about each stereocentre are named whose volume has to be positive. In the same way, which the paper
leaves out, double bonds say which of their substituents are on one side.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch

from ..errors import InputError
from ..models.ditmc import MolecularGraph, molecular_graph
from ..models.ditmc.graph import CIS, TRANS
from ._rdkit import Chem
from .base import Limits
from .geometry import bond_distances
from .molecules import Molecule
from .stereo import double_bonds, stereocentres

COUNTS = range(5)
CHARGES = range(-5, 6)
RING_SIZES = range(3, 9)
RING_COUNTS = range(4)
HYBRIDISATIONS = tuple(getattr(Chem.HybridizationType, name) for name in ("SP", "SP2", "SP3", "SP3D", "SP3D2"))
BOND_TYPES = tuple(getattr(Chem.BondType, name) for name in ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"))


def graph_of(molecule: Molecule, elements: Collection[int]) -> MolecularGraph:
    """The graph of a molecule, atoms in its order, stereochemistry as it is specified there.

    Args:
        molecule: see `ase_geomol.providers.molecules.parse`.
        elements: atomic numbers that the model knows.

    Raises:
        InputError: an element that the model does not know, or a dative bond.
    """
    Limits(atoms=len(molecule), elements=elements).check(molecule)
    check_bonds(molecule)
    mol = molecule.mol
    bonds, bond_features = [], []
    for bond in mol.GetBonds():
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for receiver, sender in ((first, second), (second, first)):
            bonds.append((receiver, sender))
            bond_features.append(_one_of(bond.GetBondType(), BOND_TYPES))
    return molecular_graph(
        numbers=torch.tensor(molecule.numbers),
        atom_features=torch.tensor([_atom_features(atom) for atom in mol.GetAtoms()], dtype=torch.float32),
        bonds=bonds,
        bond_features=bond_features,
        hops=bond_distances(molecule),
        centres=_centres(molecule),
        sides=_sides(molecule),
    )


def check_bonds(molecule: Molecule) -> None:
    """Raise InputError for a dative bond."""
    for bond in molecule.mol.GetBonds():
        if bond.GetBondType() not in BOND_TYPES:
            first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            raise InputError(f"The bond between atoms {first} and {second} is dative: no conformer model knows those.")


def _one_of(value: object, choices: Iterable[object]) -> list[bool]:
    return [value == choice for choice in choices]


def _one_or_none_of(value: object, choices: Collection[object]) -> list[bool]:
    return [*_one_of(value, choices), value not in choices]


def _atom_features(atom: Chem.Atom) -> list[bool]:
    rings, index = atom.GetOwningMol().GetRingInfo(), atom.GetIdx()
    return [
        *_one_or_none_of(sum(neighbor.GetAtomicNum() == 1 for neighbor in atom.GetNeighbors()), COUNTS),
        *_one_or_none_of(atom.GetNumRadicalElectrons(), COUNTS),
        atom.GetIsAromatic(),
        *_one_or_none_of(atom.GetDegree(), COUNTS),
        *_one_or_none_of(atom.GetHybridization(), HYBRIDISATIONS),
        *_one_or_none_of(atom.GetFormalCharge(), CHARGES),
        *(rings.IsAtomInRingOfSize(index, size) for size in RING_SIZES),
        *_one_or_none_of(rings.NumAtomRings(index), RING_COUNTS),
    ]


def _centres(molecule: Molecule) -> list[list[int]]:
    """Four atoms of each stereocentre: its neighbours, of which the centre takes the place of a lone pair."""
    centres = []
    for centre, around, sign in stereocentres(molecule):
        first, second, *others = around if sign > 0 else (around[1], around[0], *around[2:])
        centres.append([first, second, *others, centre][:4])
    return centres


def _sides(molecule: Molecule) -> list[tuple[int, int, int]]:
    """Substituents (atom, atom, `CIS` or `TRANS`) at the two ends of double bonds of which it is known."""
    sides = []
    for (before, begin, end, after), cis in double_bonds(molecule):
        for a in _others(molecule, begin, end):
            for b in _others(molecule, end, begin):
                together = cis ^ (a != before) ^ (b != after)
                sides += [(a, b, CIS if together else TRANS), (b, a, CIS if together else TRANS)]
    return sides


def _others(molecule: Molecule, atom: int, left_out: int) -> list[int]:
    around = (neighbor.GetIdx() for neighbor in molecule.mol.GetAtomWithIdx(atom).GetNeighbors())
    return [index for index in around if index != left_out]
