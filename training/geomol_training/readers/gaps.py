"""Gaps between HOMO and LUMO as PCQM4Mv2 and Molecule3D are published: tables, and geometries beside them.

* PCQM4Mv2: ``data.csv.gz`` (idx, smiles, homolumogap in eV), read with start structures that RDKit makes of the SMILES;
  or ``pcqm4m-v2-train.sdf``, geometries of DFT of the table's first molecules; ``split_dict.pt`` names the splits.
* Molecule3D: ``combined_mols_0_to_1000000.sdf`` and so on, geometries of DFT; ``properties.csv`` with a line for each
  molecule of all parts, ``random_split_inds.json`` or ``scaffold_split_inds.json``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from ase_geomol.errors import DataError, InputError, MissingExtraError
from ase_geomol.simulate.structures import load_structure

from ..frames import Row
from .damage import row_or_damage, sentence
from .extxyz import open_text
from .keys import Keys
from .pickles import ARRAYS, plain_arrays, unpickle

SMILES, GAP = "smiles", "homolumogap"
TABLES = ("data.csv.gz", "data.csv", "raw/data.csv.gz", "pcqm4m-v2/raw/data.csv.gz", "properties.csv")
"""Where the table of an SDF file may lie, seen from its folder."""
SPLITS = ("split_dict.pt", "../split_dict.pt", "random_split_inds.json", "scaffold_split_inds.json")
"""Likewise the splits, seen from the table's folder; the first that is there counts."""
END = "$$$$"
"""Last line of each molecule of an SDF file."""


def is_table(path: Path) -> bool:
    """Whether a file is a table of SMILES with gaps."""
    if not path.name.endswith((".csv", ".csv.gz")):
        return False
    with open_text(path) as file:
        return {SMILES, GAP} <= set(file.readline().strip().split(","))


def count_lines(path: Path) -> int:
    """How many molecules a table has, those without a gap too."""
    with open_text(path) as file:
        return sum(1 for _ in csv.reader(file)) - 1


def read_table(path: Path, keys: Keys, part: slice = slice(None)) -> Iterator[Row]:
    """Yield the molecules of a table in the structures that RDKit makes of their SMILES (ETKDGv3, MMFF94s or UFF).

    Those whose gap is not published are left out; one that RDKit finds no structure of has no atoms. The property named
    by ``keys.energy`` stands in the place of the energy.
    """
    splits = _splits(path)
    for number, line in _lines(path, part.start or 0, part.stop):
        if _is_published(path, line, keys.energy):
            yield row_or_damage(_row_of_smiles, number, line, keys.energy, splits)


def _row_of_smiles(number: int, line: dict[str, str], name: str, splits: _Splits) -> Row:
    try:
        atoms = load_structure(f"smiles:{line[SMILES]}")
        numbers, positions = atoms.numbers.astype(np.int64), atoms.positions
    except InputError:
        numbers, positions = np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    return _row(numbers, positions, float(line[name]), number, line, splits)


def table_of(path: Path) -> Path | None:
    """The table that belongs to an SDF file; None without one."""
    return next((path.parent / name for name in TABLES if (path.parent / name).exists()), None)


def count_molecules(path: Path) -> int:
    """How many molecules an SDF file has; raises :class:`DataError` where it ends inside one."""
    return sum(1 for _ in _blocks(path))


def read_sdf(path: Path, keys: Keys, part: slice = slice(None)) -> Iterator[Row]:
    """Yield the molecules of an SDF file in the geometries that it has, with the property of its table's lines.

    Raises:
        DataError: the table is shorter.
        MissingExtraError: RDKit is not installed.
    """
    table = table_of(path)
    assert table is not None
    found = re.fullmatch(r"combined_mols_(\d+)_to_\d+", path.stem)
    before, start = int(found[1]) if found else 0, part.start or 0
    splits = _splits(table)
    blocks = islice(_blocks(path), part.start, part.stop)
    lines = _lines(table, before + start, None if part.stop is None else before + part.stop)
    for number, (block, line) in enumerate(zip_longest(blocks, lines), start=start):
        if block is None:  # the table goes on with other parts or splits
            return
        if line is None:
            raise DataError(f"{path} and {table.name} do not belong together: the table ends before molecule {number}.")
        place, fields = line
        if _is_published(table, fields, keys.energy):
            yield row_or_damage(_row_of_block, block, place, fields, keys.energy, splits)


def _row_of_block(block: str, number: int, line: dict[str, str], name: str, splits: _Splits) -> Row:
    return _row(*_geometry(block), float(line[name]), number, line, splits)


def _blocks(path: Path) -> Iterator[str]:
    """The text of each molecule; raises :class:`DataError` where the file ends inside one."""
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(END):
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        raise DataError(f"{path} ends inside a molecule: download it again.")


def _geometry(block: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (N,) and positions (N, 3) in Å."""
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise MissingExtraError("rdkit", "labels", "Reading SDF files") from error
    with rdBase.BlockLogs():
        molecule = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
    if molecule is None:
        raise DataError("RDKit cannot read the molecule")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    return numbers, molecule.GetConformer().GetPositions()


def _lines(table: Path, start: int, stop: int | None) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a table with their numbers, from 0."""
    with open_text(table) as file:
        yield from islice(enumerate(csv.DictReader(file)), start, stop)


def _is_published(table: Path, line: dict[str, str], name: str) -> bool:
    """Whether a line has a property; raises :class:`DataError` where no line has."""
    if name not in line:
        raise DataError(f"{table} has the columns {', '.join(line)}, but no '{name}': name one of them.")
    return line[name] is None or line[name].strip().lower() not in ("", "nan")  # None: the line is cut off


class _Splits(NamedTuple):
    """Names of splits, and for each molecule of a table which of them it is in; both may be empty."""

    names: list[str]
    codes: np.ndarray

    def of(self, number: int) -> str:
        return self.names[self.codes[number]] if number < len(self.codes) else ""


def _row(
    numbers: np.ndarray, positions: np.ndarray, value: float, number: int, line: dict[str, str], splits: _Splits
) -> Row:
    """Charges and spins stay at their defaults, since the tables tell neither."""
    name = str(number)
    group = line.get(SMILES, name)
    cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
    return Row(numbers, positions, cell, pbc, value, group=group, split=splits.of(number), name=name)


def files_beside(path: Path) -> list[Path]:
    """The table of an SDF file, and the splits of a table."""
    table = path if is_table(path) else table_of(path)
    if table is None:
        return []
    splits = _splits_of(table)
    return [file for file in (table, splits) if file is not None and file != path]


def _splits_of(table: Path) -> Path | None:
    return next((table.parent / name for name in SPLITS if (table.parent / name).exists()), None)


def _splits(table: Path) -> _Splits:
    path = _splits_of(table)
    if path is None:
        return _Splits([], np.zeros(0, dtype=np.int8))
    try:
        parts = json.loads(path.read_text()) if path.suffix == ".json" else _unpickled(path)
        members = [np.asarray(numbers, dtype=np.int64) for numbers in parts.values()]
    except Exception as error:  # zip, pickle, JSON and numpy have many ways to say that a file is damaged
        raise DataError(f"The splits {path} are damaged: {sentence(error)}") from error
    codes = np.zeros(1 + max(int(numbers.max()) for numbers in members if len(numbers)), dtype=np.int8)
    for code, numbers in enumerate(members, start=1):
        codes[numbers] = code
    return _Splits(["", *parts], codes)


def _unpickled(path: Path) -> dict[str, Any]:
    """A dictionary of arrays as torch writes it, an archive with a pickle; nothing else is rebuilt."""
    with ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        found = unpickle(archive.read(name), ARRAYS)
    return {part: plain_arrays(numbers) for part, numbers in found.items()}
