"""Whether positions are the stereoisomer that was asked for."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

from .molecules import Molecule

FLAT = 0.1
"""Least cosine of the torsion about a double bond that counts as cis or trans."""
_TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


def stereo_errors(molecule: Molecule, positions: np.ndarray) -> list[str]:
    """Name each stereocentre and double bond that is not as the molecule specifies it.

    Centres are compared by their handedness relative to the molecule's own bonds (RDKit derives it from positions),
    which is R or S without the ranking; double bonds by the sign of their torsion. What is not specified is free.

    Args:
        molecule: what was asked for.
        positions: (N, 3) Å.
    """
    return [*_wrong_centres(molecule, positions), *_wrong_double_bonds(molecule, positions)]


def count_stereo(molecule: Molecule) -> int:
    """How many stereocentres and double bonds the molecule specifies."""
    return len(_centres(molecule)) + len(_double_bonds(molecule))


def _centres(molecule: Molecule) -> list[Chem.Atom]:
    return [atom for atom in molecule.mol.GetAtoms() if atom.GetChiralTag() in _TETRAHEDRAL]


def _wrong_centres(molecule: Molecule, positions: np.ndarray) -> list[str]:
    asked = _centres(molecule)
    if not asked:
        return []
    seen = molecule.with_positions(positions)
    Chem.AssignAtomChiralTagsFromStructure(seen, replaceExistingTags=True)
    wrong = []
    for atom in asked:
        tag = seen.GetAtomWithIdx(atom.GetIdx()).GetChiralTag()
        if tag != atom.GetChiralTag():
            state = "inverted" if tag in _TETRAHEDRAL else "flat"
            wrong.append(f"the stereocentre at atom {atom.GetIdx()} ({atom.GetSymbol()}) is {state}")
    return wrong


def _double_bonds(molecule: Molecule) -> list[tuple[tuple[int, int, int, int], bool]]:
    """The four atoms of each specified double bond, and whether the outer two are cis."""
    found = []
    for bond in molecule.mol.GetBonds():
        if bond.GetStereo() in (*_CIS, *_TRANS):
            before, after = bond.GetStereoAtoms()
            chain = (before, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), after)
            found.append((chain, bond.GetStereo() in _CIS))
    return found


def _wrong_double_bonds(molecule: Molecule, positions: np.ndarray) -> list[str]:
    wrong = []
    for chain, cis in _double_bonds(molecule):
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
