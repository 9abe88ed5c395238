"""Whether positions are the stereoisomer that was asked for."""

from __future__ import annotations

import numpy as np

from ._rdkit import Chem
from .molecules import TURNS, Molecule
from .volumes import FLAT, bond_volume

_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


def stereo_errors(molecule: Molecule, positions: np.ndarray) -> list[str]:
    """Name each stereocentre and double bond that is not as the molecule specifies it.

    A centre has the sign of the volume that its bonds span, which RDKit's tag gives relative to their order, and so
    does "R" or "S", whatever the order; a double bond has the sign of its torsion. What is not specified is free;
    what nobody makes, as of axes, `parse` refuses.

    Args:
        molecule: what was asked for.
        positions: (N, 3) Å.
    """
    return [*_wrong_centres(molecule, positions), *_wrong_double_bonds(molecule, positions)]


def count_stereo(molecule: Molecule) -> int:
    """How many stereocentres and double bonds the molecule specifies."""
    return len(stereocentres(molecule)) + len(double_bonds(molecule))


def stereocentres(molecule: Molecule) -> list[tuple[int, list[int], int]]:
    """The specified stereocentres: atom, its neighbours, and the sign of the volume that they span in this order.

    RDKit's sense is that of its order of bonds, seen from the first neighbour.
    """
    found = []
    for atom in molecule.mol.GetAtoms():
        turn = TURNS.get(atom.GetChiralTag())
        around = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        if turn is not None and len(around) in (3, 4):
            found.append((atom.GetIdx(), around, turn))
    return found


def _wrong_centres(molecule: Molecule, positions: np.ndarray) -> list[str]:
    wrong = []
    for centre, around, sign in stereocentres(molecule):
        volume = sign * bond_volume(positions[around] - positions[centre])
        if not volume >= FLAT:  # NaN is wrong too
            symbol = molecule.mol.GetAtomWithIdx(centre).GetSymbol()
            state = "inverted" if volume < -FLAT else "flat"
            wrong.append(f"the stereocentre at atom {centre} ({symbol}) is {state}")
    return wrong


def double_bonds(molecule: Molecule) -> list[tuple[tuple[int, int, int, int], bool]]:
    """The specified double bonds: a substituent, the two ends, a substituent; and whether the outer two are cis."""
    found = []
    for bond in molecule.mol.GetBonds():
        if bond.GetStereo() in (*_CIS, *_TRANS):
            before, after = bond.GetStereoAtoms()
            chain = (before, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), after)
            found.append((chain, bond.GetStereo() in _CIS))
    return found


def _wrong_double_bonds(molecule: Molecule, positions: np.ndarray) -> list[str]:
    wrong = []
    for chain, cis in double_bonds(molecule):
        cosine = _torsion_cosine(positions[list(chain)])
        if (cosine if cis else -cosine) < FLAT:
            state = "trans instead of cis" if cis else "cis instead of trans"
            state = "twisted" if abs(cosine) < FLAT else state
            wrong.append(f"the double bond between atoms {chain[1]} and {chain[2]} is {state}")
    return wrong


def _torsion_cosine(four: np.ndarray) -> float:
    """Cosine of the torsion of four positions (4, 3); 0 where it has none."""
    before, middle, after = np.diff(four, axis=0)
    first, second = np.cross(before, middle), np.cross(middle, after)
    size = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / size) if size > 0 else 0.0
