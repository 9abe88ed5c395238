"""A molecule to label: its name, its split, its first geometry and its force field."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from ase import Atoms, units
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem

from .engine import RejectedFrame
from .fragments import SMALL_MOLECULES

RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]

ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Molecule:
    """SMILES, connectivity block of the InChIKey and, for QM9, the published geometry (Å)."""

    smiles: str
    key: str
    numbers: tuple[int, ...] = ()
    positions: tuple[tuple[float, float, float], ...] = ()

    @property
    def split(self) -> str:
        """``train``, ``valid`` or ``test``: the same for every molecule of this connectivity."""
        return split_of(self.key)

    def elements(self) -> frozenset[int]:
        """Atomic numbers in the molecule, hydrogen included."""
        atoms = Chem.AddHs(Chem.MolFromSmiles(self.smiles)).GetAtoms()
        return frozenset(atom.GetAtomicNum() for atom in atoms)

    def size(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.numbers) or Chem.AddHs(Chem.MolFromSmiles(self.smiles)).GetNumAtoms()


def connectivity_key(smiles: str) -> str | None:
    """First block of the InChIKey: the skeleton without stereochemistry; None for an invalid SMILES."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    return Chem.MolToInchiKey(molecule).split("-")[0] or None


@cache
def small_molecules() -> tuple[Molecule, ...]:
    """The small molecules of :mod:`fragments`."""
    return tuple(Molecule(smiles, connectivity_key(smiles) or smiles) for smiles in SMALL_MOLECULES)


@cache
def _small_keys() -> frozenset[str]:
    return frozenset(molecule.key for molecule in small_molecules())


def split_of(key: str) -> str:
    """90 % train, 5 % valid, 5 % test by a hash of the connectivity key; small molecules always train."""
    if key in _small_keys():
        return "train"
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "train" if share < 0.90 else "valid" if share < 0.95 else "test"


def split_of_all(molecules: Sequence[Molecule]) -> str:
    """The one split of molecules that meet; raises ValueError when they are of different splits."""
    splits = {molecule.split for molecule in molecules}
    if len(splits) != 1:
        raise ValueError(f"molecules of different splits must not meet: {sorted(splits)}")
    return splits.pop()


def first_geometry(molecule: Molecule, rng: np.random.Generator) -> Atoms:
    """The published geometry, or ETKDGv3 and MMFF94s (Å); raises :class:`RejectedFrame` if none is found."""
    if molecule.positions:
        return Atoms(molecule.numbers, np.array(molecule.positions))
    return _atoms(_embedded(molecule.smiles, rng))


def force_field(molecule: Molecule, rng: np.random.Generator) -> tuple[Atoms, Callable[[Atoms], np.ndarray]]:
    """A minimum of MMFF94s, and the function that gives its forces (N, 3) in eV/Å at any positions of these atoms.

    Raises :class:`RejectedFrame` where there is no geometry or MMFF94s lacks a parameter.
    """
    built = _embedded(molecule.smiles, rng)
    settings = AllChem.MMFFGetMoleculeProperties(built, "MMFF94s")  # pyright: ignore[reportAttributeAccessIssue]
    if settings is None:
        raise RejectedFrame("no MMFF94s parameters")
    field = AllChem.MMFFGetMoleculeForceField(built, settings)  # pyright: ignore[reportAttributeAccessIssue]

    def forces(moved: Atoms) -> np.ndarray:
        field.Initialize()  # or RDKit takes the distances of the call before
        return -np.reshape(field.CalcGrad(moved.positions.ravel().tolist()), (-1, 3)) * (units.kcal / units.mol)

    return _atoms(built), forces


def _embedded(smiles: str, rng: np.random.Generator) -> Chem.Mol:
    """With hydrogens, in a geometry by ETKDGv3 and MMFF94s where it has parameters."""
    built = Chem.AddHs(Chem.MolFromSmiles(smiles))
    settings = AllChem.ETKDGv3()  # pyright: ignore[reportAttributeAccessIssue]
    settings.randomSeed = int(rng.integers(2**31 - 1))
    settings.maxIterations = 50
    embed = AllChem.EmbedMolecule  # pyright: ignore[reportAttributeAccessIssue]
    if embed(built, settings) != 0:
        settings.useRandomCoords = True
        if embed(built, settings) != 0:
            raise RejectedFrame("no first geometry")
    if AllChem.MMFFHasAllMoleculeParams(built):  # pyright: ignore[reportAttributeAccessIssue]
        AllChem.MMFFOptimizeMolecule(built, mmffVariant="MMFF94s")  # pyright: ignore[reportAttributeAccessIssue]
    return built


def _atoms(built: Chem.Mol) -> Atoms:
    return Atoms([atom.GetAtomicNum() for atom in built.GetAtoms()], built.GetConformer().GetPositions())
