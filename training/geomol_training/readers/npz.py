"""The .npz files of MD17 and rMD17."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.units import kcal, mol

from ase_geomol.errors import DataError

from ..frames import Row
from .keys import Keys

REVISED = {"numbers": "nuclear_charges", "positions": "coords", "energies": "energies", "forces": "forces"}
ORIGINAL = {**REVISED, "energies": "old_energies", "forces": "old_forces"}
MD17 = {"numbers": "z", "positions": "R", "energies": "E", "forces": "F"}
"""Names of the arrays: of rMD17 (Christensen and von Lilienfeld 2020), and of MD17 (Chmiela et al. 2017)."""


def read_npz(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the frames of a file of MD17 or rMD17; kcal/mol become eV."""
    with np.load(path, allow_pickle=False) as arrays:
        names = MD17 if "R" in arrays else REVISED if keys.labels == "revised" else ORIGINAL
        missing = set(names.values()) - set(arrays)
        if missing:
            raise DataError(f"{path} is no file of MD17 or rMD17: it has no {', '.join(sorted(missing))}.")
        for unit, known in (("e_unit", ("kcal/mol",)), ("r_unit", ("Ang", "Angstrom", "angstrom"))):
            if unit in arrays and str(arrays[unit]) not in known:
                raise DataError(f"{path}: {unit} is {arrays[unit]}, not {known[0]}: convert it first.")
        if "lattice" in arrays:
            raise DataError(f"{path} holds a periodic structure (lattice): convert it to extended XYZ.")
        numbers, coords = arrays[names["numbers"]].astype(np.int64), arrays[names["positions"]]
        energies, forces = (arrays[names[what]] * (kcal / mol) for what in ("energies", "forces"))
    energies = energies.reshape(-1)
    if not len(coords) == len(energies) == len(forces):
        raise DataError(f"{path}: {len(coords)} structures, {len(energies)} energies, {len(forces)} forces.")
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
