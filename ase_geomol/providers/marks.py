"""Marks of stereochemistry that no provider makes, and that RDKit would drop or ignore without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..errors import InputError
from ._rdkit import Chem
from .axes import neighbours_off, rows_of_double_bonds

_SHAPES = {
    Chem.ChiralType.CHI_SQUAREPLANAR: "square planar",
    Chem.ChiralType.CHI_TRIGONALBIPYRAMIDAL: "trigonal bipyramidal",
    Chem.ChiralType.CHI_OCTAHEDRAL: "octahedral",
}
_DIRECTIONS = (Chem.BondDir.ENDUPRIGHT, Chem.BondDir.ENDDOWNRIGHT)
_ATROPISOMERS = (Chem.BondStereo.STEREOATROPCW, Chem.BondStereo.STEREOATROPCCW)
_SIDES = {Chem.BondStereo.STEREOCIS: True, Chem.BondStereo.STEREOTRANS: False}
_SMALL = 8
"""Atoms of the smallest ring whose double bonds have sides for RDKit."""


def refuse_marks(mol: Chem.Mol, name: str) -> None:
    """Refuse stereochemistry that is not made; marks that mean nothing, as at an atom with equal neighbours, are fine.

    Not noticed are marks of rows of double bonds with other atoms than carbon (ketenimines, carbodiimides), and those
    whose neighbours differ by their handedness alone.

    Args:
        mol: as it was handed in, before RDKit cleans it.
        name: of it, for the message.

    Raises:
        InputError: with the atom or the bond, and what is not made.
    """
    rows = rows_of_double_bonds(mol)
    shaped = [atom for atom in mol.GetAtoms() if atom.GetChiralTag() in _SHAPES]
    for bond in mol.GetBonds():
        if bond.GetStereo() in _ATROPISOMERS:
            where = f"the bond between atoms {bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()}"
            raise _refusal(name, "that of an atropisomer", where)
    for bond, size in _twisted(mol):
        where = f"the bond between atoms {bond.GetBeginAtomIdx()} and {bond.GetEndAtomIdx()}"
        raise _refusal(name, f"a trans double bond in a ring of {size}", where)
    if not rows and not shaped:
        return
    full = Chem.Mol(mol)
    full.UpdatePropertyCache(strict=False)
    full = Chem.AddHs(full)
    ranks = list(Chem.CanonicalRankAtoms(full, breakTies=False, includeChirality=False))
    for atom in shaped:
        shape = _SHAPES[atom.GetChiralTag()]
        around = [ranks[other.GetIdx()] for other in full.GetAtomWithIdx(atom.GetIdx()).GetNeighbors()]
        others = len(around) - max(Counter(around).values(), default=0)
        if others > 1 or (others and shape == "trigonal bipyramidal"):  # a single other one has one place only
            raise _refusal(name, shape, f"atom {atom.GetIdx()}")
    for row in rows:
        different = all(len({ranks[atom] for atom in atoms}) == len(atoms) for atoms in neighbours_off(full, row))
        if different and _is_marked(mol, row):
            raise _refusal(name, "that of cumulated double bonds", f"atoms {', '.join(map(str, row))}")


def _twisted(mol: Chem.Mol) -> Iterator[tuple[Chem.Bond, int]]:
    """Double bonds at which a small ring would have to go on at different sides, and the size of this ring."""
    sided = Chem.Mol(mol)
    Chem.SetBondStereoFromDirections(sided)
    marked = [bond for bond in sided.GetBonds() if bond.GetStereo() in _SIDES]
    rings = [set(ring) for ring in Chem.GetSymmSSSR(sided)] if marked else []
    for bond in marked:
        ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
        for ring in rings:
            if len(ring) < _SMALL and ends <= ring and any(_is_of_it(sided, end) for end in ends):
                first, second = (atom in ring for atom in bond.GetStereoAtoms())
                if (first == second) != _SIDES[bond.GetStereo()]:
                    yield bond, len(ring)


def _is_of_it(mol: Chem.Mol, end: int) -> bool:
    """Whether a direction at an ``end`` of a double bond is its own, and not that of another double bond alone."""
    marked = [bond for bond in _bonds(mol, end) if bond.GetBondDir() in _DIRECTIONS]
    return not marked or any(not _is_of_another(mol, bond, end) for bond in marked)


def _is_marked(mol: Chem.Mol, row: tuple[int, ...]) -> bool:
    """Whether the handedness of an even number of double bonds, or the sides of an odd one, are given."""
    if len(row) % 2:
        return mol.GetAtomWithIdx(row[len(row) // 2]).GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED
    return all(
        any(bond.GetBondDir() in _DIRECTIONS and not _is_of_another(mol, bond, end) for bond in _bonds(mol, end))
        for end in (row[0], row[-1])
    )


def _is_of_another(mol: Chem.Mol, bond: Chem.Bond, end: int) -> bool:
    """Whether the direction of a bond at an ``end`` belongs to another double bond at its other end."""
    beside = bond.GetOtherAtomIdx(end)
    beyond = [
        other.GetOtherAtomIdx(beside) for other in _bonds(mol, beside) if other.GetBondType() == Chem.BondType.DOUBLE
    ]
    return any(other.GetBondDir() in _DIRECTIONS for atom in beyond for other in _bonds(mol, atom))


def _bonds(mol: Chem.Mol, atom: int) -> Sequence[Chem.Bond]:
    return mol.GetAtomWithIdx(atom).GetBonds()


def _refusal(name: str, kind: str, where: str) -> InputError:
    return InputError(
        f"{name} asks at {where} for stereochemistry that is not made, {kind}: leave the mark out to get any isomer."
    )
