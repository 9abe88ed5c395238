"""Molecules with stereochemistry, and what our check of it says of them beside RDKit's own reading."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from geomol_training.conformers.isomers import is_other_isomer
from geomol_training.labelling.druglike import random_druglike
from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from ase_geomol import RDKitProvider
from ase_geomol.errors import InputError
from ase_geomol.providers.molecules import Molecule, parse
from ase_geomol.providers.stereo import count_stereo, stereo_errors


def isomers(count: int, seed: int, atoms: tuple[int, int]) -> list[Molecule]:
    """Drug-like molecules with stereochemistry, one random isomer of each."""
    return list(islice(_isomers(np.random.default_rng(seed), atoms), count))


def _isomers(rng: np.random.Generator, atoms: tuple[int, int]) -> Iterator[Molecule]:
    while True:
        drawn = random_druglike(rng, atoms)
        if drawn is None:
            continue
        options = StereoEnumerationOptions(maxIsomers=1, onlyUnassigned=True, rand=int(rng.integers(2**31 - 1)))
        try:
            molecule = parse(
                Chem.MolToSmiles(next(iter(EnumerateStereoisomers(Chem.MolFromSmiles(drawn.smiles), options))))
            )
        except InputError:
            continue
        if count_stereo(molecule):
            yield molecule


def compare(molecule: Molecule, maker: RDKitProvider, seed: int) -> dict[str, int]:
    """What the check says of a structure that RDKit made, and of its mirror image, against RDKit's own reading."""
    found = {"elements": count_stereo(molecule), "structures": 0, "read by RDKit": 0, "false alarms": 0, "missed": 0}
    for atoms in maker.iterate(molecule.mol, 1, seed=seed, checks=(), time_limit=20):
        for positions in (atoms.positions, atoms.positions * [1, 1, -1]):
            other, alarm = is_other_isomer(molecule, positions), bool(stereo_errors(molecule, positions))
            found["structures"] += 1
            found["read by RDKit"] += other is not None
            found["false alarms"] += alarm and other is False
            found["missed"] += other is True and not alarm
    return found
