"""A random sample of QM9: published geometries and SMILES from the data files of ``qm9pack``."""

from __future__ import annotations

import ast
import csv
import importlib.util
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from ase_geomol.errors import DataError, MissingExtraError

from .molecules import Molecule, connectivity_key

_PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


def sample_qm9(count: int, rng: np.random.Generator) -> list[Molecule]:
    """Return ``count`` molecules in random order (fewer where the SMILES of a row cannot be read).

    The data files are read directly: importing ``qm9pack`` needs a setuptools that has pkg_resources.
    Raises :class:`MissingExtraError` or :class:`DataError`.
    """
    if count == 0:
        return []
    files = [_folder() / part for part in _PARTS]
    wanted = rng.permutation(_rows(files))[:count]
    order = {int(row): place for place, row in enumerate(wanted)}
    found: dict[int, Molecule] = {}
    row = 0
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                molecule = _molecule(line) if row in order else None
                if molecule:
                    found[order[row]] = molecule
                row += 1
    return [found[place] for place in sorted(found)]


def _folder() -> Path:
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("qm9pack", "labels", "Sampling QM9 molecules")
    return Path(spec.submodule_search_locations[0]) / "data"


def _rows(files: list[Path]) -> int:
    total = 0
    for file in files:
        if not file.exists():
            raise DataError(f"The QM9 data file {file} is missing: reinstall qm9pack.")
        with file.open("rb") as stream:
            total += sum(1 for _ in stream) - 1
    return total


def _molecule(line: dict[str, str]) -> Molecule | None:
    key = connectivity_key(line["SMILES"])
    if key is None:
        return None
    numbers = tuple(atomic_numbers[symbol] for symbol in ast.literal_eval(line["Elements"]))
    positions = tuple((float(x), float(y), float(z)) for x, y, z in ast.literal_eval(line["XYZ_Ang"]))
    return Molecule(line["SMILES"], key, numbers, positions)
