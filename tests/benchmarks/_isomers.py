"""Which isomer positions are, as RDKit reads it off them: a second opinion on `ase_geomol.providers.stereo`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from geomol_training.labelling.druglike import random_druglike
from rdkit import Chem, rdBase
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from ase_geomol import RDKitProvider
from ase_geomol.errors import InputError
from ase_geomol.providers.molecules import Molecule, parse
from ase_geomol.providers.stereo import count_stereo, stereo_errors

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
    found = {"elements": count_stereo(molecule), "structures": 0, "false alarms": 0, "missed": 0}
    for atoms in maker.iterate(molecule.mol, 1, seed=seed, checks=(), time_limit=20):
        for positions in (atoms.positions, atoms.positions * [1, 1, -1]):
            other, alarm = is_other_isomer(molecule, positions), bool(stereo_errors(molecule, positions))
            found["structures"] += 1
            found["false alarms"] += alarm and other is False
            found["missed"] += other is True and not alarm
    return found
