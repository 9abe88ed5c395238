"""Anything that ASE reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io import iread
from ase.io.trajectory import TrajectoryReader
from ase.stress import voigt_6_to_full_3x3_stress

from ase_geomol.checks import has_volume

from ..frames import Row
from .damage import row_or_damage
from .keys import Keys


def read_ase(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of a file through ASE."""
    for atoms in iread(str(path), index=":"):
        yield row_or_damage(row_of_atoms, atoms, keys)


def read_trajectory(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the frames of a trajectory of ASE."""
    with TrajectoryReader(path) as frames:
        for number in range(len(frames)):
            yield row_or_damage(_frame, frames, number, keys)


def _frame(frames: TrajectoryReader, number: int, keys: Keys) -> Row:
    return row_of_atoms(frames[number], keys)  # type: ignore[arg-type]


def read_database(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of an ASE database, with its key-value pairs in the place of ``info``."""
    for stored in connect(path).select():
        yield row_or_damage(_stored_row, stored, keys)


def _stored_row(stored: AtomsRow, keys: Keys) -> Row:
    atoms = stored.toatoms()
    # ASE has a property of its own that hides a pair called "charge".
    atoms.info = {key: vars(stored)[key] for key in stored.key_value_pairs}
    return row_of_atoms(atoms, keys)


def row_of_atoms(atoms: Atoms, keys: Keys) -> Row:
    """Make a row of ``Atoms`` with labels in its calculator's results, its info or its arrays."""
    results = {} if atoms.calc is None else atoms.calc.results
    fixed = fixed_atoms(atoms)
    formula = formula_of(atoms.get_chemical_symbols(), atoms.pbc)
    return make_row(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, results, atoms.info, atoms.arrays, keys, formula
    )._replace(fixed=fixed)


def fixed_atoms(atoms: Atoms) -> np.ndarray | None:
    """Which atoms (N,) ASE's FixAtoms holds; None without such a constraint."""
    held = [constraint.index for constraint in atoms.constraints if isinstance(constraint, FixAtoms)]
    if not held:
        return None
    fixed = np.zeros(len(atoms), dtype=bool)
    fixed[np.concatenate(held)] = True
    return fixed


def formula_of(symbols: Iterable[str], pbc: Iterable[bool]) -> str:
    """The same text for the same composition, whichever reader asks; of periodic structures that of one unit, so that
    a cell and its supercell have the same.
    """
    counts = Counter(symbols)
    units = gcd(*counts.values()) if any(pbc) else 1
    return "".join(symbol * (counts[symbol] // units) for symbol in sorted(counts))


def make_row(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    results: Mapping[str, Any],
    info: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    keys: Keys,
    formula: str,
) -> Row:
    """Make a row of the parts of ``Atoms``."""
    energy = results.get(keys.energy, info.get(keys.energy))
    forces = results.get(keys.forces, arrays.get(keys.forces))
    energies = results.get(keys.energies, arrays.get(keys.energies))
    return Row(
        numbers=np.asarray(numbers),
        positions=np.asarray(positions, dtype=float),
        cell=np.asarray(cell, dtype=float),
        pbc=np.asarray(pbc, dtype=bool),
        energy=None if energy is None else float(energy),
        forces=None if forces is None else np.asarray(forces, dtype=float),
        stress=_stress(results.get(keys.stress, info.get(keys.stress)), cell),
        charge=round(float(info.get("charge", 0))),
        spin=round(float(info.get("spin", 1))),
        group=str(info.get(keys.group, formula)),
        split=str(info.get(keys.split, "")),
        source=str(info.get(keys.source, "")),
        name=str(info.get(keys.name, "")),
        trajectory=str(info.get("trajectory", "")),
        tags=arrays.get("tags"),
        energies=None if energies is None else np.asarray(energies, dtype=float),
        sought="" if energy is not None else _sought(keys.energy, {**results, **info}),
    )


def _sought(name: str, there: Iterable[str]) -> str:
    """In words, what was looked for in vain, and what there is instead."""
    names = ", ".join(other for other in there if other not in ("Lattice", "Properties", "pbc"))
    return f"looked for '{name}' among {names or 'nothing'}"


def _stress(values: Any, cell: np.ndarray) -> np.ndarray | None:
    """Full tensor (3, 3) of six Voigt or nine components; another number of them is left to the checks.

    A cell without a volume has no stress, whatever the file says.
    """
    if values is None or (np.isfinite(cell).all() and not has_volume(Atoms(cell=cell))):
        return None
    values = np.asarray(values, dtype=float)
    if values.size == 6:
        return voigt_6_to_full_3x3_stress(values.reshape(6))
    return values.reshape(3, 3) if values.size == 9 else values
