"""Cumulated double bonds between carbons (C=C=C, …): which there are, and how the planes at their ends have to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._rdkit import Chem

if TYPE_CHECKING:
    from .molecules import Molecule

OFF = 35.0
"""Degrees by which the planes at the ends may be off a right angle, or off each other."""
BENT = 10
"""Atoms of a ring; smaller ones bend and twist the double bonds in them, which are not looked at."""


class Axis(NamedTuple):
    """A row of cumulated double bonds with two neighbours at each end.

    Attributes:
        chain: its atoms from end to end.
        before: neighbours of the first one, out of the row.
        after: neighbours of the last one.
    """

    chain: tuple[int, ...]
    before: list[int]
    after: list[int]

    @property
    def perpendicular(self) -> bool:
        """Whether the planes at the ends have a right angle, as for an even number of double bonds, or coincide."""
        return len(self.chain) % 2 == 1

    @property
    def torsion(self) -> tuple[int, int, int, int]:
        """Four atoms whose torsion is ±90 degrees, or 0 or 180."""
        return self.before[0], self.chain[0], self.chain[-1], self.after[0]


def rows_of_double_bonds(mol: Chem.Mol) -> list[tuple[int, ...]]:
    """The atoms of each row of two or more double bonds between carbons, from end to end."""
    beside: dict[int, list[int]] = {}
    for bond in mol.GetBonds():
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        if bond.GetBondType() == Chem.BondType.DOUBLE and all(atom.GetAtomicNum() == 6 for atom in ends):
            for atom, other in (ends, ends[::-1]):
                beside.setdefault(atom.GetIdx(), []).append(other.GetIdx())
    rows = []
    for end in beside:
        row = [end]
        while len(found := [atom for atom in beside[row[-1]] if atom not in row[-2:]]) == 1:
            row += found
        if len(beside[end]) == 1 and len(row) > 2 and end < row[-1]:
            rows.append(tuple(row))
    return rows


def neighbours_off(mol: Chem.Mol, row: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Those of the first and of the last atom of a row, out of it."""
    first, last = (
        [atom.GetIdx() for atom in mol.GetAtomWithIdx(end).GetNeighbors() if atom.GetIdx() not in row]
        for end in (row[0], row[-1])
    )
    return first, last


def axes(mol: Chem.Mol) -> list[Axis]:
    """The rows of cumulated double bonds of which it is known how the planes at their ends lie."""
    rings = mol.GetRingInfo()
    rows = [row for row in rows_of_double_bonds(mol) if not 0 < rings.MinAtomRingSize(row[1]) < BENT]
    found = [Axis(row, *neighbours_off(mol, row)) for row in rows]
    return [axis for axis in found if len(axis.before) == len(axis.after) == 2]


def axis_errors(molecule: Molecule, positions: np.ndarray) -> list[str]:
    """Name rows of cumulated double bonds that are twisted.

    Args:
        molecule: what was asked for.
        positions: (N, 3) Å.
    """
    errors = []
    for axis in molecule.axes:
        along = positions[axis.chain[-1]] - positions[axis.chain[0]]
        first, last = (np.cross(positions[a] - positions[b], along) for a, b in (axis.before, axis.after))
        angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(first, last)), abs(first @ last)))
        if not abs(angle - 90.0 * axis.perpendicular) < OFF:  # NaN is wrong too
            atoms = f"{axis.chain[0]} and {axis.chain[-1]}"
            errors.append(f"the double bonds between atoms {atoms} are twisted to {angle:.0f} degrees")
    return errors
