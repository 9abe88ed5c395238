"""A structure from what a user types: a file, a SMILES string, or a name of ASE's g2 collection."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.collections import g2
from ase.io import read
from ase.io.formats import UnknownFileTypeError, extension2format

from ..errors import InputError, MissingExtraError

Kind = Literal["file", "g2", "smiles"]
FULL = 0.99
"""Occupancy from which a site counts as full: refinements leave some thousandths."""
LONGEST = 600
"""s, for each way of embedding."""
FRAGMENT_GAP = 2.5
"""Å between the boxes of a SMILES string's separate molecules, before they are relaxed together."""


class Source(NamedTuple):
    """What a text was taken for: its kind, and the text without a "g2:" or "smiles:" prefix."""

    kind: Kind
    text: str


def load_structure(text: str, index: int = -1, *, seed: int = 0) -> Atoms:
    """Make Atoms of a text.

    See `interpret` for the order in which a text is tried. SMILES strings, also of several molecules, are embedded with
    RDKit's ETKDGv3 and cleaned up with MMFF94s (UFF where it has no parameters), without the checks of
    `ase_geomol.RDKitProvider`; ``info["charge"]`` is set for ions and ``info["spin"]`` (2S+1, all unpaired electrons
    parallel) for radicals.

    Args:
        text: file path, SMILES string or g2 name.
        index: frame of a file with several.
        seed: of the embedding.

    Raises:
        InputError: the text is none of the three; a file cannot be read, has no such frame, or has sites that are
            shared by several elements or partly empty.
        MissingExtraError: a SMILES string without RDKit.
    """
    kind, text = interpret(text)
    if kind == "file":
        return _from_file(text, index)
    return _from_g2(text) if kind == "g2" else _from_smiles(text, seed)


def interpret(text: str) -> Source:
    """Decide what a text is: first an existing file, then a g2 name, then a SMILES string.

    A prefix "g2:" or "smiles:" decides it by hand. "CO", "N" and a few more are both a g2 name and the SMILES
    string of another molecule; these are refused without a prefix.

    Raises:
        InputError: it is ambiguous, or looks like a file that does not exist, or like an unknown g2 name.
    """
    prefix, _, rest = text.partition(":")
    if prefix == "smiles":
        return Source("smiles", rest)
    if prefix == "g2":
        if rest not in g2.names:
            raise InputError(f"'{rest}' is no name of ASE's g2 collection.{_similar(rest)}")
        return Source("g2", rest)
    if os.path.isfile(text):  # unlike Path.is_file, it takes texts of any length
        return Source("file", text)
    if os.path.isdir(text) or Path(text).suffix[1:] in extension2format:
        raise InputError(f"There is no file '{text}'.")
    if text not in g2.names:
        return Source("smiles", text)
    if re.fullmatch("(Cl|[BCNOFPS])+", text):
        raise InputError(
            f"'{text}' is a name of ASE's g2 collection and also the SMILES string of another molecule: "
            f"write 'g2:{text}' or 'smiles:{text}'."
        )
    return Source("g2", text)


def _from_file(path: str, index: int) -> Atoms:
    try:
        atoms = read(path, index)
    except (IndexError, StopIteration) as error:
        raise InputError(f"{path} has no frame {index}.") from error
    except UnknownFileTypeError as error:
        raise InputError(f"{path} is in no format that ASE recognises ({error}).") from error
    except Exception as error:  # every one of ASE's readers has its own
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    assert isinstance(atoms, Atoms)
    see_ordered(atoms, path)
    return atoms


def see_ordered(atoms: Atoms, path: str) -> None:
    """Refuse (:class:`InputError`) a disordered crystal: ASE keeps each site's main element as if it were whole."""
    sites = atoms.info.get("occupancy")
    for site, shares in sites.items() if isinstance(sites, dict) else ():
        if not isinstance(shares, dict):  # a number of someone else's
            continue
        if len(shares) > 1 or any(isinstance(share, float | int) and share < FULL for share in shares.values()):
            told = ", ".join(f"{symbol} {share}" for symbol, share in shares.items())
            raise InputError(
                f"{path} is a disordered crystal: its site {site} is occupied by {told}. A potential computes whole "
                "atoms: give an ordered structure of it."
            )


def _from_g2(name: str) -> Atoms:
    atoms = g2[name]
    unpaired = round(float(atoms.get_initial_magnetic_moments().sum()))
    atoms.info.update({"spin": unpaired + 1} if unpaired else {})
    return atoms


def read_molecules(smiles: str) -> Any:
    """RDKit's molecule of a SMILES string, which may be several molecules.

    Raises:
        InputError: it is none.
        MissingExtraError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise MissingExtraError("rdkit", "providers", f"Reading '{smiles}' as a SMILES string") from error
    with rdBase.BlockLogs():
        parsed = Chem.MolFromSmiles(smiles) if smiles.isprintable() else None
    if parsed is None or parsed.GetNumAtoms() == 0:
        shown = smiles if smiles.isprintable() else ascii(smiles)[1:-1]
        raise InputError(
            f"'{shown}' is not a structure: there is no such file, it cannot be parsed as a SMILES string, "
            f"and it is no name of ASE's g2 collection.{_similar(smiles)}"
        )
    return parsed


def _from_smiles(smiles: str, seed: int) -> Atoms:
    parsed = read_molecules(smiles)
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.AddHs(parsed)
        _embed(molecule, smiles, seed)
    atoms = Atoms(
        numbers=[atom.GetAtomicNum() for atom in molecule.GetAtoms()],
        positions=molecule.GetConformer().GetPositions(),
    )
    charge = Chem.GetFormalCharge(molecule)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    atoms.info.update({"charge": charge} if charge else {})
    atoms.info.update({"spin": unpaired + 1} if unpaired else {})
    return atoms


def _embed(molecule: Any, smiles: str, seed: int) -> None:
    """Give an RDKit molecule one conformer, in place."""
    from rdkit.Chem import AllChem

    options = AllChem.ETKDGv3()  # type: ignore[attr-defined]
    options.randomSeed = seed
    options.timeout = LONGEST
    for random_start in (False, True):
        options.useRandomCoords = random_start
        if AllChem.EmbedMolecule(molecule, options) == 0:  # type: ignore[attr-defined]
            break
    else:
        raise InputError(f"RDKit finds no three-dimensional structure of '{smiles}'.")
    _spread(molecule)
    settings = {"maxIters": 5000, "ignoreInterfragInteractions": False}
    if AllChem.MMFFHasAllMoleculeParams(molecule):  # type: ignore[attr-defined]
        AllChem.MMFFOptimizeMolecule(molecule, mmffVariant="MMFF94s", **settings)  # type: ignore[attr-defined]
    elif AllChem.UFFHasAllMoleculeParams(molecule):  # type: ignore[attr-defined]
        AllChem.UFFOptimizeMolecule(molecule, **settings)  # type: ignore[attr-defined]


def _spread(molecule: Any) -> None:
    """Put the separate molecules of one SMILES string side by side: they are embedded on top of each other."""
    from rdkit.Chem import GetMolFrags

    conformer = molecule.GetConformer()
    positions = np.array(conformer.GetPositions())
    edge = positions[:, 0].min()
    for fragment in map(list, GetMolFrags(molecule)):
        positions[fragment, 0] += edge - positions[fragment, 0].min()
        edge = positions[fragment, 0].max() + FRAGMENT_GAP
    for atom, position in enumerate(positions):
        conformer.SetAtomPosition(atom, position.tolist())


def _similar(name: str) -> str:
    close = difflib.get_close_matches(name, g2.names, n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""
