"""Which isomer positions are, as RDKit reads it off them: a second opinion on `ase_geomol.providers.stereo`."""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.stereo import stereo_errors
from ase_geomol.providers.volumes import bond_volume

READ = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
OPEN = 0.1
"""Volume of three bonds of unit length below which RDKit reads nothing."""
NAMED = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOZ)


def is_other_isomer(molecule: Molecule, positions: np.ndarray) -> bool | None:
    """Whether RDKit reads another isomer off the positions; None where it does not read all that is specified.

    It does not read phosphorus with a hydrogen, for example, and centres at which one bond is (nearly) in the plane of
    two others, as at bridgeheads of small rings, only by chance: it looks at three of four bonds there.
    """
    with rdBase.BlockLogs():
        seen = molecule.with_positions(positions)
        Chem.AssignStereochemistryFrom3D(seen)
    read = [(atom.GetChiralTag(), _tag(seen, atom.GetIdx(), positions), READ) for atom in molecule.mol.GetAtoms()]
    read += [(b.GetStereo(), seen.GetBondWithIdx(b.GetIdx()).GetStereo(), NAMED) for b in molecule.mol.GetBonds()]
    read = [(asked, found if found in known else None) for asked, found, known in read if asked in known]
    if any(found is not None and found != asked for asked, found in read):
        return True
    return None if any(found is None for _, found in read) else False


def _tag(seen: Chem.Mol, index: int, positions: np.ndarray) -> Chem.ChiralType | None:
    """What RDKit read at an atom; None where different three of its four bonds say different things."""
    atom = seen.GetAtomWithIdx(index)
    arms = positions[[bond.GetOtherAtomIdx(index) for bond in atom.GetBonds()]] - positions[index]
    if len(arms) != 4:
        return atom.GetChiralTag()
    signs = [sign * bond_volume(np.delete(arms, left_out, 0)) for left_out, sign in enumerate((-1, 1, -1, 1))]
    return atom.GetChiralTag() if min(signs) > OPEN or max(signs) < -OPEN else None


def is_wrong(molecule: Molecule, positions: np.ndarray) -> bool:
    """Whether positions are another isomer, by RDKit's reading or, where it has none, by ours."""
    other = is_other_isomer(molecule, positions)
    return bool(stereo_errors(molecule, positions)) if other is None else other
