"""Whether positions have the bonds of the molecule, no others, and no atoms pressed into each other."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii, vdw_radii
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist

from .axes import axis_errors
from .molecules import Molecule

SHORTEST, LONGEST = 0.65, 1.4
"""A bond is broken outside these many sums of covalent radii."""
BONDED = 1.1
"""Atoms that are not bonded, but closer than this many sums of covalent radii, have a new bond."""
CLASH = 0.6
"""Atoms at least four bonds apart clash when they are closer than this many sums of van der Waals radii."""
HYDROGEN_RADIUS = 0.6
"""Å, in place of the van der Waals radius of 1.1 Å: the shortest hydrogen bonds are no clashes."""
UNKNOWN_RADIUS = 2.0
"""Å, van der Waals radius of elements of which none was published."""


def bond_errors(molecule: Molecule, positions: np.ndarray) -> list[str]:
    """Name bonds that are broken or squeezed, pairs of atoms that have become bonded, and twisted cumulenes.

    Args:
        molecule: what was asked for.
        positions: (N, 3) Å.
    """
    radii = covalent_radii[molecule.numbers]
    ratio = cdist(positions, positions) / (radii[:, None] + radii)
    first, second = molecule.bonds[:, :2].T
    bonded = ratio[first, second]
    wrong = ~((bonded > SHORTEST) & (bonded < LONGEST))  # NaN is wrong too
    errors = [f"the bond {_pair(molecule, i, j)} is broken" for i, j in zip(first[wrong], second[wrong], strict=True)]
    ratio[first, second] = ratio[second, first] = np.inf
    np.fill_diagonal(ratio, np.inf)
    new = np.argwhere(np.triu(~(ratio > BONDED)))
    errors += [f"{_pair(molecule, i, j)} became bonded" for i, j in new]
    return errors + axis_errors(molecule, positions)


def clashes(molecule: Molecule, positions: np.ndarray) -> list[str]:
    """Name pairs of atoms, at least four bonds apart, that are far inside their van der Waals radii.

    Args:
        molecule: what was asked for.
        positions: (N, 3) Å.
    """
    radii = np.nan_to_num(vdw_radii[molecule.numbers], nan=UNKNOWN_RADIUS)
    radii[molecule.numbers == 1] = HYDROGEN_RADIUS
    close = cdist(positions, positions) < CLASH * (radii[:, None] + radii)
    return [f"{_pair(molecule, i, j)} clash" for i, j in np.argwhere(np.triu(close & (bond_distances(molecule) > 3)))]


def bond_distances(molecule: Molecule) -> np.ndarray:
    """(N, N) number of bonds on the shortest way from atom to atom."""
    first, second = molecule.bonds[:, :2].T
    links = csr_array((np.ones(len(first)), (first, second)), shape=(len(molecule), len(molecule)))
    return shortest_path(links, directed=False, unweighted=True)


def _pair(molecule: Molecule, first: int, second: int) -> str:
    symbols = [molecule.mol.GetAtomWithIdx(int(index)).GetSymbol() for index in (first, second)]
    return f"{symbols[0]}{first}-{symbols[1]}{second}"
