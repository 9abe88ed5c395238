"""QM9 (Ramakrishnan et al. 2014): the tables of the package ``qm9pack``, and the files ``dsgdb9nsd_….xyz``.

Properties by their usual names; energies become eV here.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
from collections.abc import Iterator, Mapping
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
    n, values = int(lines[0]), lines[1].split()[5:]
    atoms = [line.split() for line in lines[2 : 2 + n]]
    numbers = np.array([atomic_numbers[atom[0]] for atom in atoms])
    positions = np.array([[float(x) for x in atom[1:4]] for atom in atoms])
    value = wanted.factor * float(values[list(PROPERTIES).index(name)])
    return _row(numbers, positions, value, lines[3 + n].split()[0])


def _property(path: Path, name: str) -> Property:
    if name not in PROPERTIES:
        raise DataError(f"{path} is of QM9, which has {', '.join(PROPERTIES)}, but no '{name}': name one of them.")
    return PROPERTIES[name]


def _row(numbers: np.ndarray, positions: np.ndarray, value: float, smiles: str) -> Row:
    return Row(numbers, positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), value, group=smiles)
