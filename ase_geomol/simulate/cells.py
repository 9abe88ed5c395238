"""Crystals' cells: what has one, and copies in a larger or smaller one."""

from __future__ import annotations

from ase import Atoms

from ..errors import InputError


def see_crystal(atoms: Atoms, what: str) -> None:
    """Refuse what is not periodic in three directions; raises :class:`InputError`."""
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError(f"{what} needs a structure with a cell, periodic in three directions.")


def rescaled(atoms: Atoms, factor: float) -> Atoms:
    """A copy with all lengths times ``factor``, with the same calculator."""
    scaled = atoms.copy()
    scaled.calc = atoms.calc
    scaled.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return scaled
