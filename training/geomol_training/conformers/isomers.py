"""Which isomer positions are, as RDKit reads it off them: a second opinion on `ase_geomol.providers.stereo`."""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.stereo import stereo_errors

READ = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
NAMED = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOZ)


def is_other_isomer(molecule: Molecule, positions: np.ndarray) -> bool | None:
    """Whether RDKit reads another isomer off the positions; None where it does not read all that is specified, such as
    phosphorus with a hydrogen.
    """
    with rdBase.BlockLogs():
        seen = molecule.with_positions(positions)
        Chem.AssignStereochemistryFrom3D(seen)
    read = [(atom.GetChiralTag(), _like(seen, atom).GetChiralTag(), READ) for atom in molecule.mol.GetAtoms()]
    read += [(b.GetStereo(), seen.GetBondWithIdx(b.GetIdx()).GetStereo(), NAMED) for b in molecule.mol.GetBonds()]
    read = [(asked, found if found in known else None) for asked, found, known in read if asked in known]
    if any(found is not None and found != asked for asked, found in read):
        return True
    return None if any(found is None for _, found in read) else False


def _like(seen: Chem.Mol, atom: Chem.Atom) -> Chem.Atom:
    return seen.GetAtomWithIdx(atom.GetIdx())


def is_wrong(molecule: Molecule, positions: np.ndarray) -> bool:
    """Whether positions are another isomer, by RDKit's reading or, where it has none, by ours."""
    other = is_other_isomer(molecule, positions)
    return bool(stereo_errors(molecule, positions)) if other is None else other
