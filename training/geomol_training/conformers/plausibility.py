"""Whether a structure looks like a molecule, by the rules of PoseBusters (Buttenschoen et al. 2024, Chem. Sci. 15)."""

from __future__ import annotations

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from ase_geomol.providers.geometry import bond_distances
from ase_geomol.providers.molecules import Molecule

TOLERANCE = 0.25
"""By which distances across one bond or two may be outside RDKit's bounds of distance geometry, relative to these."""
CLASH = 0.3
"""By which other distances may be below the lower bound."""
FLAT = 0.25
"""Å, from the plane of an aromatic ring or of a double bond between carbons."""
FAULTS = ("bond lengths", "bond angles", "clashes", "aromatic rings", "double bonds")


class Plausibility:
    """What is expected of the structures of one molecule."""

    def __init__(self, molecule: Molecule) -> None:
        mol = Chem.Mol(molecule.mol)
        bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol)
        far = bond_distances(molecule)
        self._first, self._second = np.triu_indices(len(molecule), 1)
        self._longest = bounds[self._first, self._second]
        self._shortest = bounds[self._second, self._first]
        self._far = far[self._first, self._second]
        rings = mol.GetRingInfo()
        self._rings = [
            list(atoms)
            for atoms, bonds in zip(rings.AtomRings(), rings.BondRings(), strict=True)
            if len(atoms) <= 6 and all(mol.GetBondWithIdx(bond).GetIsAromatic() for bond in bonds)
        ]
        self._double_bonds = [
            sorted({atom.GetIdx() for end in ends for atom in (end, *end.GetNeighbors())})
            for ends in ((bond.GetBeginAtom(), bond.GetEndAtom()) for bond in mol.GetBonds() if _is_flat(bond))
        ]

    def faults(self, positions: np.ndarray) -> list[str]:
        """Which of `FAULTS` the positions (N, 3) in Å have."""
        apart = np.linalg.norm(positions[self._first] - positions[self._second], axis=1)
        outside = (apart > (1 + TOLERANCE) * self._longest) | (apart < (1 - TOLERANCE) * self._shortest)
        found = {
            "bond lengths": outside[self._far == 1].any(),
            "bond angles": outside[self._far == 2].any(),
            "clashes": (apart < (1 - CLASH) * self._shortest)[self._far > 2].any(),
            "aromatic rings": any(_out_of_plane(positions[atoms]) > FLAT for atoms in self._rings),
            "double bonds": any(_out_of_plane(positions[atoms]) > FLAT for atoms in self._double_bonds),
        }
        return [name for name in FAULTS if found[name]]


def _is_flat(bond: Chem.Bond) -> bool:
    """Whether a bond is a double bond between two carbons with three neighbours each."""
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    double = bond.GetBondType() == Chem.BondType.DOUBLE and not bond.GetIsAromatic()
    return double and all(end.GetAtomicNum() == 6 and end.GetDegree() == 3 for end in ends)


def _out_of_plane(points: np.ndarray) -> float:
    """Å, largest distance of points (A, 3) from their plane."""
    centred = points - points.mean(0)
    normal = np.linalg.svd(centred)[2][-1]
    return float(np.abs(centred @ normal).max())
