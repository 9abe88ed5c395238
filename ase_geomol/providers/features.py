"""What a conformer model is told of a molecule: RDKit's molecular graph as tensors.

How the molecule came about does not matter, nor does the order of its atoms and bonds: all hydrogens are atoms, and
what RDKit perceives (rings, aromaticity, stereochemistry) is perceived anew. Two of the paper's features would break
this. The implicit valence is left out, as it is zero here. RDKit's chiral tag refers to the order of bonds, which the
network cannot see; instead each neighbour of a stereocentre has a place, and places 1 to 4 are always arranged in the
same sense. In the same way double bonds say which of their substituents are on one side.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from ase.data import chemical_symbols

from ..errors import InputError, MissingExtraError
from ..models.ditmc import MolecularGraph, molecular_graph
from ..models.ditmc.graph import CIS, PLACES, TRANS

try:
    from rdkit import Chem
except ImportError as error:
    raise MissingExtraError("RDKit", "providers", "A molecular graph") from error

COUNTS = range(5)
CHARGES = range(-5, 6)
RING_SIZES = range(3, 9)
RING_COUNTS = range(4)
HYBRIDISATIONS = tuple(getattr(Chem.HybridizationType, name) for name in ("SP", "SP2", "SP3", "SP3D", "SP3D2"))
BOND_TYPES = tuple(getattr(Chem.BondType, name) for name in ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"))
SAME_SIDE = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
OPPOSITE_SIDES = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
CLOCKWISE = Chem.ChiralType.CHI_TETRAHEDRAL_CW
TETRAHEDRAL = (CLOCKWISE, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)


def graph_of(molecule: Chem.Mol, elements: Collection[int]) -> MolecularGraph:
    """The graph of a molecule, atoms in its order.

    Args:
        molecule: with all hydrogens as atoms; stereochemistry as it is marked there, conformers are not looked at.
        elements: atomic numbers that the model knows.

    Raises:
        InputError: no atoms, an element that the model does not know, hydrogens that are no atoms, or a bond that is
            neither single, double, triple nor aromatic.
    """
    _check(molecule, elements)
    molecule = Chem.Mol(molecule)
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)
    places = _places(molecule)
    bonds, bond_features = [], []
    for bond in molecule.GetBonds():
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for receiver, sender in ((first, second), (second, first)):
            bonds.append((receiver, sender))
            bond_features.append(
                [
                    *_one_of(bond.GetBondType(), BOND_TYPES),
                    *_one_of(places.get((receiver, sender)), PLACES),
                    *_one_of(places.get((sender, receiver)), PLACES),
                ]
            )
    return molecular_graph(
        numbers=torch.tensor([atom.GetAtomicNum() for atom in molecule.GetAtoms()]),
        atom_features=torch.tensor([_atom_features(atom) for atom in molecule.GetAtoms()], dtype=torch.float32),
        bonds=bonds,
        bond_features=bond_features,
        sides=_sides(molecule),
    )


def _check(molecule: Chem.Mol, elements: Collection[int]) -> None:
    if molecule.GetNumAtoms() == 0:
        raise InputError("The molecule has no atoms.")
    for atom in molecule.GetAtoms():
        number, index = atom.GetAtomicNum(), atom.GetIdx()
        if number not in elements:
            known = " ".join(chemical_symbols[z] for z in sorted(elements))
            name = chemical_symbols[number] if number else f"a placeholder ({atom.GetSymbol()})"
            raise InputError(f"Atom {index} is {name}, which this conformer model does not know; it knows: {known}.")
        if atom.GetTotalNumHs():
            raise InputError(f"Atom {index} ({atom.GetSymbol()}) has hydrogens that are no atoms: add them first.")
    for bond in molecule.GetBonds():
        if bond.GetBondType() not in BOND_TYPES:
            ends = f"{bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()}"
            raise InputError(
                f"The bond between atoms {ends} is of type {str(bond.GetBondType()).lower()}; a conformer model knows "
                "single, double, triple and aromatic bonds."
            )


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


def _places(molecule: Chem.Mol) -> dict[tuple[int, int], int]:
    """Place of each neighbour around each stereocentre, {(centre, neighbour): place}.

    Seen from the first, the others are arranged counter-clockwise (RDKit's sense for three neighbours and a lone
    pair). There are several such orders; of these it is the one closest to RDKit's canonical ranks.
    """
    ranks = list(Chem.CanonicalRankAtoms(molecule, breakTies=False))
    places = {}
    for atom in molecule.GetAtoms():
        if atom.GetChiralTag() not in TETRAHEDRAL:
            continue
        neighbors = [neighbor.GetIdx() for neighbor in atom.GetNeighbors()]
        order = sorted(neighbors, key=lambda index: (ranks[index], index))
        if _is_odd([neighbors.index(index) for index in order]) != (atom.GetChiralTag() == CLOCKWISE):
            order[-2:] = reversed(order[-2:])
        places.update({(atom.GetIdx(), index): place for index, place in zip(order, PLACES, strict=False)})
    return places


def _is_odd(permutation: Sequence[int]) -> bool:
    inversions = sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :])
    return inversions % 2 == 1


def _sides(molecule: Chem.Mol) -> list[tuple[int, int, int]]:
    """Substituents (atom, atom, `CIS` or `TRANS`) at the two ends of double bonds of which it is known."""
    sides = []
    for bond in molecule.GetBonds():
        if bond.GetStereo() not in (*SAME_SIDE, *OPPOSITE_SIDES):
            continue
        marked = tuple(bond.GetStereoAtoms())
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        first, second = (
            [n.GetIdx() for n in end.GetNeighbors() if n.GetIdx() != other.GetIdx()]
            for end, other in (ends, reversed(ends))
        )
        for a in first:
            for b in second:
                together = (bond.GetStereo() in SAME_SIDE) ^ (a not in marked) ^ (b not in marked)
                sides += [(a, b, CIS if together else TRANS), (b, a, CIS if together else TRANS)]
    return sides
