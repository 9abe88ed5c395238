"""The .npz files of MD17 and rMD17, and the official splits of rMD17's archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.units import kcal, mol

from ase_geomol.errors import DataError

from ..frames import Row
from .keys import Keys

REVISED = {"numbers": "nuclear_charges", "positions": "coords", "energies": "energies", "forces": "forces"}
ORIGINAL = {**REVISED, "energies": "old_energies", "forces": "old_forces"}
MD17 = {"numbers": "z", "positions": "R", "energies": "E", "forces": "F"}
"""Names of the arrays: of rMD17 (Christensen and von Lilienfeld 2020), and of MD17 (Chmiela et al. 2017)."""


class Portion(NamedTuple):
    """A file with all frames of a molecule, and one with the places among them of those of an official split."""

    whole: Path
    places: Path


def portion_of_archive(path: Path) -> Portion | None:
    """What a name such as ``rmd17_ethanol_train_01.npz`` means where no file has it, but its folder is rMD17's archive.

    That has all frames in ``npz_data/rmd17_ethanol.npz``, and in ``splits/index_train_01.csv`` which of them are to be
    learned. None where the file is there, or the archive is not.
    """
    found = re.fullmatch(r"(rmd17_\w+)_(train|test)_(\d\d)\.npz", path.name)
    if found is None or path.exists():
        return None
    molecule, part, split = found.groups()
    portion = Portion(path.parent / f"npz_data/{molecule}.npz", path.parent / f"splits/index_{part}_{split}.csv")
    return portion if portion.whole.exists() and portion.places.exists() else None


def read_npz(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the frames of a file of MD17 or rMD17, or of a portion of its archive; kcal/mol become eV."""
    portion = portion_of_archive(path)
    with np.load(path if portion is None else portion.whole, allow_pickle=False) as arrays:
        names = MD17 if "R" in arrays else REVISED if keys.labels == "revised" else ORIGINAL
        missing = set(names.values()) - set(arrays)
        if missing:
            raise DataError(f"{path} is no file of MD17 or rMD17: it has no {', '.join(sorted(missing))}.")
        for unit, known in (("e_unit", ("kcal/mol",)), ("r_unit", ("Ang", "Angstrom", "angstrom"))):
            if unit in arrays and (named := str(arrays[unit].astype(str))) not in known:
                raise DataError(f"{path}: {unit} is {named}, not {known[0]}: convert it first.")
        if "lattice" in arrays:
            raise DataError(f"{path} holds a periodic structure (lattice): convert it to extended XYZ.")
        numbers, coords = arrays[names["numbers"]].astype(np.int64), arrays[names["positions"]]
        energies, forces = (arrays[names[what]] * (kcal / mol) for what in ("energies", "forces"))
    energies = energies.reshape(-1)
    if not len(coords) == len(energies) == len(forces):
        raise DataError(f"{path}: {len(coords)} structures, {len(energies)} energies, {len(forces)} forces.")
    if portion is not None:
        places = np.loadtxt(portion.places, dtype=np.int64, ndmin=1)
        coords, energies, forces = coords[places], energies[places], forces[places]
    molecule = path.stem.removeprefix("rmd17_").removeprefix("md17_").split("_")[0]
    for position, energy, force in zip(coords, energies, forces, strict=True):
        yield Row(
            numbers=numbers,
            positions=position,
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, dtype=bool),
            energy=float(energy),
            forces=force,
            group=molecule,
            source=molecule,
        )
