"""QM9 (Ramakrishnan et al. 2014): the tables of the package ``qm9pack``, files ``dsgdb9nsd_….xyz``, and ``.npz`` files.

Of the files, those that a list ``uncharacterized.txt`` beside them names are bad rows. The arrays have all molecules
flat: ``R`` (ΣN, 3) in Å, ``Z`` (ΣN,), ``N`` (M,), and properties (M,) by their usual names; ``id`` (M,) numbers the
molecules. Energies are in eV, as the common ``qm9_eV.npz`` has them, or in Hartree where ``e_unit`` says so; the rest
is in the units of QM9 itself. Energies become eV here.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers
from ase.units import Hartree

from ase_geomol.errors import DataError, MissingExtraError

from ..frames import Row
from .damage import row_or_damage

PACKAGE = "qm9pack"
"""As a source of data: the tables of the installed package."""
FAILED = "uncharacterized.txt"
"""QM9's list of 3,054 molecules whose relaxed geometry is that of another one."""
PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


class Property(NamedTuple):
    """One of QM9's: the unit that it has here, how many of it make one of the file's, its column in the tables."""

    unit: str
    factor: float
    column: str


PROPERTIES = {
    "mu": Property("D", 1.0, "Dipole_debye"),
    "alpha": Property("bohr^3", 1.0, "Polarizability_bohr3"),
    "homo": Property("eV", Hartree, "HOMO_au"),
    "lumo": Property("eV", Hartree, "LUMO_au"),
    "gap": Property("eV", Hartree, "HOMO_LUMO_gap_au"),
    "r2": Property("bohr^2", 1.0, "R2_bohr2"),
    "zpve": Property("eV", Hartree, "ZPVE_au"),
    "U0": Property("eV", Hartree, "InternalEnergy_0K_au"),
    "U": Property("eV", Hartree, "InternalEnergy_298K_au"),
    "H": Property("eV", Hartree, "Enthalphy_298K_au"),
    "G": Property("eV", Hartree, "GibbsFreeEnergy_298K_au"),
    "Cv": Property("cal/mol/K", 1.0, "Heatcapacity_Cv_cal_mol_K"),
}
"""The twelve that are usually learned, in the order of the .xyz files, where five other numbers stand before them."""


def package_files() -> list[Path]:
    """The tables of ``qm9pack``, read directly: importing it needs a setuptools that has pkg_resources.

    Raises:
        MissingExtraError: it is not installed.
        DataError: a table is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(PACKAGE, "labels", "QM9")
    files = [Path(spec.submodule_search_locations[0]) / "data" / part for part in PARTS]
    for file in files:
        if not file.exists():
            raise DataError(f"The QM9 data file {file} is missing: reinstall qm9pack.")
    return files


def table_lines(file: Path) -> Iterator[dict[str, str]]:
    """Lines of a table, by their columns."""
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def geometry(line: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (N,) and positions (N, 3) in Å of a line."""
    numbers = np.array([atomic_numbers[symbol] for symbol in ast.literal_eval(line["Elements"])])
    return numbers, np.array(ast.literal_eval(line["XYZ_Ang"]), dtype=float)


def read_table(path: Path, name: str) -> Iterator[Row]:
    """Yield the molecules of a table of ``qm9pack`` with the property ``name`` in the place of the energy."""
    wanted = _property(path, name)
    for line in table_lines(path):
        yield row_or_damage(_row_of_line, line, wanted)


def _row_of_line(line: Mapping[str, str], wanted: Property) -> Row:
    return _row(*geometry(line), wanted.factor * float(line[wanted.column]), line["SMILES"])


def is_qm9_file(path: Path) -> bool:
    """Whether an .xyz file is one of QM9's own."""
    with path.open(encoding="utf-8", errors="replace") as file:
        file.readline()
        return file.readline().startswith("gdb ")


def read_file(path: Path, name: str) -> Iterator[Row]:
    """Yield the molecule of a file of QM9's own, as `read_table`."""
    yield row_or_damage(_row_of_file, path, name, _property(path, name))


def _row_of_file(path: Path, name: str, wanted: Property) -> Row:
    with path.open(encoding="utf-8") as file:
        lines = file.read().replace("*^", "e").split("\n")
    number, values = int(lines[1].split()[1]), lines[1].split()[5:]
    if number in _uncharacterized(path.parent):
        raise DataError(f"molecule {number} failed QM9's own check of its geometry ({FAILED})")
    n = int(lines[0])
    atoms = [line.split() for line in lines[2 : 2 + n]]
    numbers = np.array([atomic_numbers[atom[0]] for atom in atoms])
    positions = np.array([[float(x) for x in atom[1:4]] for atom in atoms])
    value = wanted.factor * float(values[list(PROPERTIES).index(name)])
    return _row(numbers, positions, value, lines[3 + n].split()[0])


@cache
def _uncharacterized(folder: Path) -> frozenset[int]:
    """Molecules of the list beside the files, if it is there, which everyone leaves out."""
    file = folder / FAILED
    words = (line.split() for line in file.read_text().splitlines()) if file.exists() else ()
    return frozenset(int(first[0]) for first in words if first and first[0].isdigit())


def are_arrays(path: Path) -> bool:
    """Whether an .npz file is of the form of QM9."""
    with np.load(path, allow_pickle=False) as arrays:
        return {"R", "Z", "N"} <= set(arrays) and not {"E", "F"} & set(arrays)


def read_arrays(path: Path, name: str) -> Iterator[Row]:
    """Yield the molecules of an .npz file with the property ``name`` in the place of the energy.

    Raises:
        DataError: it has no such property, arrays that do not fit, or energies in another unit than it says.
    """
    wanted = _property(path, name)
    with np.load(path, allow_pickle=False) as arrays:
        if name not in arrays:
            raise DataError(
                f"{path} has {', '.join(n for n in PROPERTIES if n in arrays) or 'no property'}, not {name}."
            )
        positions, numbers, sizes, values = (arrays[key] for key in ("R", "Z", "N", name))
        identity = arrays["id"] if "id" in arrays else np.arange(len(sizes))
        hartree = _is_in_hartree(path, arrays)
    ends = np.cumsum(sizes)
    if not (len(values) == len(sizes) == len(identity) and len(positions) == len(numbers) == ends[-1]):
        raise DataError(
            f"{path}: {len(sizes)} sizes of {ends[-1]} atoms, but {len(values)} values, {len(numbers)} atoms."
        )
    factor = wanted.factor if hartree else 1.0
    for start, end, value, number in zip(ends - sizes, ends, values, identity, strict=True):
        row = _row(numbers[start:end].astype(np.int64), positions[start:end], factor * float(value), str(number))
        yield row._replace(name=str(number))


def _is_in_hartree(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    unit = str(arrays["e_unit"]) if "e_unit" in arrays else "eV"
    if unit not in ("eV", "Hartree"):
        raise DataError(f"{path}: e_unit is {unit}, not eV or Hartree: convert it first.")
    if "gap" in arrays and (np.median(arrays["gap"]) < 1.0) != (unit == "Hartree"):
        raise DataError(
            f"{path}: the median gap is {np.median(arrays['gap']):.3g}, and that of QM9 6.8 eV or 0.25 Hartree: is "
            f"e_unit another one than {unit}?"
        )
    return unit == "Hartree"


def _property(path: Path, name: str) -> Property:
    if name not in PROPERTIES:
        raise DataError(f"{path} is of QM9, which has {', '.join(PROPERTIES)}, but no '{name}': name one of them.")
    return PROPERTIES[name]


def _row(numbers: np.ndarray, positions: np.ndarray, value: float, smiles: str) -> Row:
    return Row(numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), value, group=smiles)
