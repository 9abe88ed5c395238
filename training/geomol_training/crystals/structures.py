"""Crystals to start from: known ones, and shapes at any volume: prototypes with other elements, simple lattices."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from functools import cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.collections import dcdft
from ase.data import atomic_numbers, chemical_symbols
from ase.io import iread

from ase_geomol.errors import DataError, MissingExtraError

from ..labelling.molecules import split_of

LATTICES = ("fcc", "bcc", "hcp", "sc", "diamond")
BINARIES = ("rocksalt", "cesiumchloride", "zincblende", "wurtzite", "fluorite")
NONMETALS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Sb", "Te", "I")


def split_of_composition(atoms: Atoms) -> str:
    """The split of all crystals of this composition; elements by themselves are always trained on."""
    counts = np.bincount(atoms.numbers)
    present = counts[counts > 0]
    if len(present) == 1:
        return "train"
    divisor = gcd(*map(int, present))
    formula = "".join(f"{chemical_symbols[z]}{counts[z] // divisor}" for z in np.flatnonzero(counts))
    return split_of(formula)


def known_crystals(files: tuple[Path, ...], elements: tuple[str, ...], largest: int) -> list[Atoms]:
    """Frames of these elements and at most ``largest`` atoms, with all cell vectors; raises :class:`DataError`."""
    wanted = {atomic_numbers[symbol] for symbol in elements}
    found = []
    for path in files:
        for atoms in _frames(path):
            if len(atoms) <= largest and set(atoms.numbers.tolist()) <= wanted and atoms.pbc.all():
                found.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return found


def _frames(path: Path) -> Iterator[Atoms]:
    try:
        if path.suffix == ".xz":
            text = lzma.decompress(path.read_bytes()).decode()  # ASE goes back and forth in a file
            yield from iread(io.StringIO(text), format=path.with_suffix("").suffix[1:])
        else:
            yield from iread(path)
    except FileNotFoundError:
        raise DataError(
            f"There is no file {path}: say where the known crystals are with --set starts.files=…"
        ) from None
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def simple_lattice(symbol: str, lattice: str) -> Atoms:
    """One element in one of the `LATTICES`."""
    return bulk(symbol, lattice, a=3.0, c=3.0 * np.sqrt(8 / 3) if lattice == "hcp" else None)


def binary(first: str, second: str, lattice: str) -> Atoms:
    """Two elements in one of the `BINARIES`; fluorite has two of the second."""
    formula = f"{first}{second}2" if lattice == "fluorite" else f"{first}{second}"
    return bulk(formula, lattice, a=5.0, c=5.0 * np.sqrt(8 / 3) if lattice == "wurtzite" else None)


def pair(first: str, second: str, largest: int, rng: np.random.Generator) -> Atoms:
    """Two elements, in any order, in one of the `BINARIES` or, half of the time, in an AFLOW prototype of two."""
    if rng.random() < 0.5:
        first, second = second, first
    if rng.random() < 0.5:
        return binary(first, second, str(rng.choice(BINARIES)))
    rows = [row for row in _prototypes() if row["kinds"] == 2 and len(row["numbers"]) <= largest]
    return _substituted(rows[int(rng.integers(len(rows)))], [first, second])


def salt(elements: tuple[str, ...], rng: np.random.Generator) -> Atoms:
    """A metal and one of the `NONMETALS` in a random one of the `BINARIES`."""
    metals = [symbol for symbol in elements if symbol not in NONMETALS]
    others = [symbol for symbol in elements if symbol in NONMETALS]
    return binary(str(rng.choice(metals)), str(rng.choice(others)), str(rng.choice(BINARIES)))


def originals(elements: tuple[str, ...], largest: int) -> list[Atoms]:
    """AFLOW prototypes as they are found in nature: their own elements and cell."""
    known = {atomic_numbers[symbol] for symbol in elements}
    crystals = [
        Atoms(row["elements"], scaled_positions=row["places"], cell=row["cell"], pbc=True) for row in _prototypes()
    ]
    return [atoms for atoms in crystals if len(atoms) <= largest and set(atoms.numbers.tolist()) <= known]


def ground_states(elements: tuple[str, ...], largest: int) -> list[Atoms]:
    """Elements in their most stable form, as the collection dcdft of ASE has them."""
    crystals = [dcdft[symbol] for symbol in dcdft.names if symbol in elements]
    bare = [Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True) for atoms in crystals]
    return [atoms for atoms in bare if len(atoms) <= largest]


def prototype(elements: tuple[str, ...], largest: int, rng: np.random.Generator) -> Atoms:
    """A random AFLOW prototype of two elements, or, half of the time, of more, which are replaced by random ones."""
    rows = [row for row in _prototypes() if len(row["numbers"]) <= largest and 2 <= row["kinds"] <= len(elements)]
    many = [row for row in rows if row["kinds"] > 2]
    choices = many if many and rng.random() < 0.5 else [row for row in rows if row["kinds"] == 2]
    chosen = choices[int(rng.integers(len(choices)))]
    return _substituted(chosen, [str(symbol) for symbol in rng.choice(elements, chosen["kinds"], replace=False)])


def _substituted(row: dict[str, Any], symbols: list[str]) -> Atoms:
    numbers = [atomic_numbers[symbols[kind]] for kind in row["numbers"]]
    return Atoms(numbers, scaled_positions=row["places"], cell=row["cell"], pbc=True)


@cache
def _prototypes() -> list[dict[str, Any]]:
    try:
        from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
    except ImportError as error:
        raise MissingExtraError("pymatgen", "labels", "Crystals of known prototypes") from error
    rows = []
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure
        if not structure.is_ordered:
            continue
        kinds = {element: i for i, element in enumerate(structure.composition.elements)}
        found = [getattr(site.specie, "element", site.specie).Z for site in structure]
        rows.append(
            {
                "numbers": [kinds[site.specie] for site in structure],
                "kinds": len(kinds),
                "elements": found,
                "places": structure.frac_coords,
                "cell": structure.lattice.matrix,
            }
        )
    return rows
