"""GEOM as it is published (Axelrod and Gómez-Bombarelli, Sci. Data 9, 185), with the splits and test sets of GeoMol.

A file ``….pickle`` for each molecule: a dictionary with its ``smiles`` and a list ``conformers`` of dictionaries with
``rd_mol``, ``boltzmannweight`` and ``totalenergy`` (Hartree). ``split0.npy`` has three arrays of places in the
sorted list of these files. ``test_mols.pkl`` is one dictionary of SMILES with lists of reference molecules.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Hartree
from rdkit import Chem, rdBase

from ase_geomol.errors import DataError, InputError
from ase_geomol.providers.features import check_bonds
from ase_geomol.providers.molecules import Molecule, parse
from ase_geomol.providers.stereo import stereo_errors

from ..labelling.molecules import connectivity_key
from ..readers.pickles import ARRAYS, Maker, Name, plain_arrays, unpickle
from .sets import MoleculeSet

MOST_CONFORMERS = 30
"""Of a molecule, the most probable ones, but for the test, which has all."""
MOST_NEIGHBORS = 4
PARTS = ("train", "valid", "test")


class _Packed:
    """Stands for a molecule of RDKit: the bytes that it is made from."""

    def __init__(self, content: bytes) -> None:
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("a molecule of RDKit that is not made from bytes")
        self.content = content

    def __setstate__(self, state: Any) -> None:
        """Attributes that someone gave it in Python: they are left out."""


_MOLECULES: dict[Name, Maker] = {**ARRAYS, ("rdkit.Chem.rdchem", "Mol"): lambda: type("Packed", (_Packed,), {})}

UNKNOWN_BONDS = "molecules with a dative bond"


def read_geom(folder: Path, splits: Path | None, skipped: Counter[str]) -> Iterator[MoleculeSet]:
    """Yield the molecules of a folder of pickles, or those of them that are in one of the ``splits``.

    What is left out is counted: as the paper does it, molecules of several fragments or with an atom of more than
    four neighbours, and conformers that are bonded otherwise than the most probable one. Otherwise than in the paper,
    molecules whose hydrogens are not all atoms or, as RDKit writes some complexes of metals, with a dative bond; and
    conformers of another stereoisomer than the most probable one, but for the test.

    Raises:
        DataError: a file is damaged, or the splits are of another list of files.
    """
    files = sorted(folder.glob("*.pickle"))
    for file, part in zip(files, _parts(splits, len(files)), strict=True):
        if splits is None or part:
            content = _unpickled(file)
            try:
                smiles = str(content["smiles"]) if "smiles" in content else file.stem
                conformers = sorted(content["conformers"], key=lambda item: -item["boltzmannweight"])
                mols = [_molecule_of(item["rd_mol"]) for item in conformers]
                weights = np.array([item["boltzmannweight"] for item in conformers], dtype=float)
                energies = np.array([item.get("totalenergy", np.nan) for item in conformers], dtype=float) * Hartree
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise DataError(f"{file} is no molecule of GEOM: {type(error).__name__} {error}.") from error
            yield from _set_of(smiles, mols, weights, energies, part, skipped)


def read_references(file: Path, skipped: Counter[str]) -> Iterator[MoleculeSet]:
    """Yield the molecules of a ``test_mols.pkl``, for the test; their conformers have equal weights.

    Raises:
        DataError: the file is damaged.
    """
    content = _unpickled(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} is no dictionary of SMILES and molecules.")
    for smiles, packed in content.items():
        try:
            mols = [_molecule_of(item) for item in packed]
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{file}: the molecules of {smiles} are damaged: {error}.") from error
        even = np.full(len(mols), 1 / max(len(mols), 1))
        yield from _set_of(str(smiles), mols, even, np.full(len(mols), np.nan), "test", skipped)


def _set_of(
    smiles: str,
    mols: Sequence[Chem.Mol],
    weights: np.ndarray,
    energies: np.ndarray,
    part: str,
    skipped: Counter[str],
) -> Iterator[MoleculeSet]:
    """The molecule with those of its conformers that are of one graph, the graph of the most probable; or nothing."""
    molecule = _understood(smiles, mols)
    if isinstance(molecule, str):
        skipped[molecule] += 1
        return
    whole = [_graph(mol) == _graph(mols[0]) and len(Chem.GetMolFrags(mol)) == 1 for mol in mols]
    skipped["conformers that are bonded otherwise"] += whole.count(False)
    positions = {place: mols[place].GetConformer().GetPositions() for place in np.flatnonzero(whole).tolist()}
    if part != "test":
        first = {place: found for place, found in positions.items() if place < MOST_CONFORMERS}
        positions = {place: found for place, found in first.items() if not stereo_errors(molecule, found)}
        skipped["conformers of another stereoisomer"] += len(first) - len(positions)
    if not positions:
        skipped["molecules without a conformer left"] += 1
        return
    kept = list(positions)
    total = weights[kept].sum()
    yield MoleculeSet(
        molecule=Molecule(smiles, molecule.mol),
        positions=np.array(list(positions.values())),
        weights=weights[kept] / total if total > 0 else np.full(len(kept), 1 / len(kept)),
        energies=energies[kept],
        group=smiles if part else connectivity_key(smiles) or smiles,
        split=part,
    )


def _understood(smiles: str, mols: Sequence[Chem.Mol]) -> Molecule | str:
    """The molecule of the most probable conformer, or why it is left out."""
    with rdBase.BlockLogs():
        if Chem.MolFromSmiles(smiles) is None:
            return "molecules whose SMILES RDKit does not understand"
    if "." in smiles:
        return "molecules of several fragments"
    if not mols:
        return "molecules without a conformer left"
    if max(atom.GetDegree() for atom in mols[0].GetAtoms()) > MOST_NEIGHBORS:
        return f"molecules with an atom of more than {MOST_NEIGHBORS} neighbours"
    if any(atom.GetTotalNumHs() for atom in mols[0].GetAtoms()):
        return "molecules whose hydrogens are no atoms"
    try:
        molecule = parse(mols[0])
    except InputError:
        return "molecules that RDKit does not understand"
    return UNKNOWN_BONDS if has_unknown_bonds(molecule) else molecule


def has_unknown_bonds(molecule: Molecule) -> bool:
    """Whether there is a bond that no conformer model knows."""
    try:
        check_bonds(molecule)
    except InputError:
        return True
    return False


def _graph(mol: Chem.Mol) -> tuple[list[int], list[tuple[int, int]]]:
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return [atom.GetAtomicNum() for atom in mol.GetAtoms()], bonds


def _parts(splits: Path | None, count: int) -> list[str]:
    """The part of each of ``count`` files, "" where it is in none."""
    parts = [""] * count
    if splits is None:
        return parts
    try:
        with splits.open("rb") as file:
            found = _index_arrays(file.read())
        for name, index in zip(PARTS, found, strict=True):
            for place in np.asarray(index, dtype=int).tolist():
                if parts[place]:
                    raise ValueError(f"file {place} is in two parts")
                parts[place] = name
    except (OSError, ValueError, IndexError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{splits} does not divide the {count} files: {error}.") from error
    return parts


def _index_arrays(content: bytes) -> Any:
    """The arrays in a ``.npy`` file, which may hold them as objects, that is as a pickle."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    if read(stream)[2] != np.dtype(object):
        return np.load(io.BytesIO(content), allow_pickle=False)
    return plain_arrays(unpickle(stream.read(), ARRAYS))


def _unpickled(file: Path) -> Any:
    try:
        return unpickle(file.read_bytes(), _MOLECULES)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # pickle has a dozen ways to say that a file is damaged
        raise DataError(f"{file} is damaged, or holds what no molecule needs: {error}.") from error


def _molecule_of(packed: Any) -> Chem.Mol:
    if not isinstance(packed, _Packed):
        raise TypeError("there is something else in the place of a molecule")
    return Chem.Mol(packed.content)  # pyright: ignore[reportCallIssue, reportArgumentType]
