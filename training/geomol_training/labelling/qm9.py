"""A random sample of QM9: published geometries and SMILES from the data files of ``qm9pack``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..readers.qm9 import geometry, package_files, table_lines
from .molecules import Molecule, connectivity_key


def sample_qm9(count: int, rng: np.random.Generator) -> list[Molecule]:
    """Return ``count`` molecules in random order (fewer where the SMILES of a row cannot be read).

    Raises :class:`MissingExtraError` or :class:`DataError`.
    """
    if count == 0:
        return []
    files = package_files()
    wanted = rng.permutation(_rows(files))[:count]
    order = {int(row): place for place, row in enumerate(wanted)}
    found: dict[int, Molecule] = {}
    row = 0
    for file in files:
        for line in table_lines(file):
            molecule = _molecule(line) if row in order else None
            if molecule:
                found[order[row]] = molecule
            row += 1
    return [found[place] for place in sorted(found)]


def _rows(files: list[Path]) -> int:
    total = 0
    for file in files:
        with file.open("rb") as stream:
            total += sum(1 for _ in stream) - 1
    return total


def _molecule(line: dict[str, str]) -> Molecule | None:
    key = connectivity_key(line["SMILES"])
    if key is None:
        return None
    numbers, positions = geometry(line)
    return Molecule(line["SMILES"], key, tuple(numbers.tolist()), tuple(map(tuple, positions.tolist())))
