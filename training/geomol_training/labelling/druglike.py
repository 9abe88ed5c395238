"""Drug-like molecules joined at random from scaffolds, linkers and substituents."""

from __future__ import annotations

from functools import cache

import numpy as np
from rdkit import Chem

from .fragments import COMMON_SUBSTITUENTS, LINKERS, SCAFFOLDS, SUBSTITUENTS
from .molecules import ELEMENTS, Molecule, connectivity_key

# Share of molecules that get a first substituent with this element, whatever chance does after that.
WANTED = {"S": 0.03, "P": 0.06, "Cl": 0.05, "Br": 0.08, "I": 0.07, "F": 0.02}
COMMON_SHARE = 0.67
RING_PREFERENCE = 5.0
_ONLY_ON_CARBON = frozenset({7, 8, 9, 15, 16, 17, 35, 53})


def random_druglike(rng: np.random.Generator, atoms: tuple[int, int]) -> Molecule | None:
    """Join one or two scaffolds and one to four substituents; None when the result is not wanted.

    ``atoms`` is the allowed range of the number of atoms, hydrogens included.
    """
    built = Chem.MolFromSmiles(_pick(rng, SCAFFOLDS))
    if rng.random() < 0.4:
        built = _join(rng, built, Chem.MolFromSmiles(_pick(rng, LINKERS)))
        built = built and _join(rng, Chem.MolFromSmiles(_pick(rng, SCAFFOLDS)), built)
    for place in range(rng.choice(4, p=(0.25, 0.4, 0.25, 0.1)) + 1):
        chosen = _substituent(rng, WANTED if place == 0 else {})
        built = built and _join(rng, built, Chem.MolFromSmiles(chosen))
    return _accept(built, atoms) if built else None


def _pick(rng: np.random.Generator, choices) -> str:
    return choices[int(rng.integers(len(choices)))]


def _substituent(rng: np.random.Generator, wanted: dict[str, float]) -> str:
    elements = [*wanted, ""]
    element = elements[rng.choice(len(elements), p=[*wanted.values(), 1 - sum(wanted.values())])]
    if not element:
        return _pick(rng, COMMON_SUBSTITUENTS if rng.random() < COMMON_SHARE else SUBSTITUENTS)
    return _pick(rng, [text for text in SUBSTITUENTS if element in _symbols(text)])


@cache
def _symbols(smiles: str) -> frozenset[str]:
    return frozenset(atom.GetSymbol() for atom in Chem.MolFromSmiles(smiles).GetAtoms())


def _join(rng: np.random.Generator, body: Chem.Mol, part: Chem.Mol) -> Chem.Mol | None:
    """Bond the first open valence of ``part`` to a random C-H or N-H of ``body``."""
    dummy = next(atom for atom in part.GetAtoms() if atom.GetAtomicNum() == 0)
    bond = dummy.GetBonds()[0]
    head = bond.GetOtherAtom(dummy)
    wanted = {6} if head.GetAtomicNum() in _ONLY_ON_CARBON else {6, 7}
    sites = [
        atom.GetIdx()
        for atom in body.GetAtoms()
        if atom.GetAtomicNum() in wanted and atom.GetTotalNumHs() > 0 and atom.GetFormalCharge() == 0
    ]
    if not sites:
        return None
    weights = [RING_PREFERENCE if body.GetAtomWithIdx(site).IsInRing() else 1.0 for site in sites]
    site = int(rng.choice(sites, p=np.array(weights) / sum(weights)))
    offset = body.GetNumAtoms()
    joined = Chem.RWMol(Chem.CombineMols(body, part))
    joined.AddBond(site, offset + head.GetIdx(), Chem.BondType.SINGLE)
    atom = joined.GetAtomWithIdx(site)
    atom.SetNumExplicitHs(max(0, atom.GetNumExplicitHs() - 1))
    joined.RemoveAtom(offset + dummy.GetIdx())
    try:
        Chem.SanitizeMol(joined)
    except Chem.MolSanitizeException:
        return None
    return joined.GetMol()


def _accept(built: Chem.Mol, atoms: tuple[int, int]) -> Molecule | None:
    smiles = Chem.MolToSmiles(built)
    parsed = Chem.MolFromSmiles(smiles)
    if parsed is None or "." in smiles or Chem.GetFormalCharge(parsed) != 0:
        return None
    full = Chem.AddHs(parsed)
    numbers = [atom.GetAtomicNum() for atom in full.GetAtoms()]
    radical = any(atom.GetNumRadicalElectrons() for atom in full.GetAtoms())
    if radical or sum(numbers) % 2 or not set(numbers) <= set(ELEMENTS):
        return None
    if not atoms[0] <= len(numbers) <= atoms[1]:
        return None
    key = connectivity_key(smiles)
    return Molecule(smiles, key) if key else None
