"""Readers: one for each kind of file. Units become eV and Å here and nowhere else."""

from __future__ import annotations

import gzip
import lzma
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.db import connect
from ase.io import iread
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import kcal, mol

from ase_geomol.checks import has_volume
from ase_geomol.errors import DataError

from . import qm9
from .frames import Row


@dataclass(frozen=True)
class Keys:
    """Where the labels stand in a file, and which of two sets of labels is meant.

    Attributes:
        energy: key of the energy in eV, in a calculator's results or in ``info``.
        forces: key of the forces in eV/Å, in results or arrays.
        stress: key of the stress in eV/Å³ (Voigt or 3 x 3), in results or ``info``.
        group: ``info`` key of what must stay together, such as the molecule; the formula where it is missing.
        split: ``info`` key of the part that a frame belongs to.
        source: ``info`` key of where a frame comes from.
        labels: rMD17 files hold "revised" (PBE) and "original" (PBE+TS) labels.
    """

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
    group: str = "molecule"
    split: str = "split"
    source: str = "source"
    labels: Literal["revised", "original"] = "revised"


def read_rows(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of one file of any kind that ASE reads, of an rMD17 .npz, or of QM9.

    Raises:
        DataError: the file is empty, damaged or of an unknown kind.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
        reader = _reader_of(path)
        count = 0
        for row in reader(path, keys):
            count += 1
            yield row
    except (DataError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except Exception as error:  # ASE's readers raise whatever their format trips over
        raise DataError(f"{path} is damaged or not of the kind its name says: {_sentence(error)}") from error
    if count == 0:
        raise DataError(f"{path} holds no frames.")


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip().splitlines()[0].rstrip(".") + "."


def _reader_of(path: Path) -> Callable[[Path, Keys], Iterator[Row]]:
    if path.suffix == ".csv":
        return lambda path, keys: qm9.read_table(path, keys.energy)
    if path.suffix == ".xyz" and qm9.is_qm9_file(path):
        return lambda path, keys: qm9.read_file(path, keys.energy)
    if path.suffix == ".npz":
        return read_rmd17
    if path.suffix == ".db":
        return read_database
    if any(suffix in (".extxyz", ".xyz") for suffix in path.suffixes[-2:]) and _is_plain_extxyz(path):
        return read_plain_extxyz
    return read_ase


# --- anything that ASE reads


def read_ase(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of a file through ASE."""
    for atoms in iread(str(path), index=":"):
        yield row_of_atoms(atoms, keys)


def read_database(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of an ASE database, with its key-value pairs in the place of ``info``."""
    for row in connect(path).select():
        atoms = row.toatoms()
        atoms.info = dict(row.key_value_pairs)
        yield row_of_atoms(atoms, keys)


def row_of_atoms(atoms: Atoms, keys: Keys) -> Row:
    """Make a row of ``Atoms`` with labels in its calculator's results, its info or its arrays."""
    results = {} if atoms.calc is None else atoms.calc.results
    formula = _formula(atoms.get_chemical_symbols())
    return _row(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, results, atoms.info, atoms.arrays, keys, formula
    )


def _formula(symbols: Iterable[str]) -> str:
    """The same text for the same composition, whichever reader asks."""
    return "".join(sorted(symbols))


def _row(
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
    energy = results.get(keys.energy, info.get(keys.energy))
    forces = results.get(keys.forces, arrays.get(keys.forces))
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
    )


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


# --- extended XYZ with one symbol and otherwise real numbers in a line: five times faster than by ASE

_PLAIN = re.compile(r"species:S:1(?::\w+:R:\d+)+")
_PAIR = re.compile(r'([^\s="]+)=(?:"([^"]*)"|([^\s"{\[]+))(?:\s|$)')


def _open_text(path: Path):
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")


def _is_plain_extxyz(path: Path) -> bool:
    with _open_text(path) as file:
        file.readline()
        return _columns(_comment_pairs(file.readline())) is not None


def _comment_pairs(comment: str) -> dict[str, str]:
    return {name: quoted or bare for name, quoted, bare in _PAIR.findall(comment)}


def _columns(info: Mapping[str, str]) -> dict[str, slice] | None:
    """Columns of the real properties, counted behind the symbol, or None if there are others."""
    properties = info.get("Properties", "")
    if not _PLAIN.fullmatch(properties):
        return None
    fields = properties.split(":")[3:]
    columns, start = {}, 0
    for name, width in zip(fields[::3], map(int, fields[2::3]), strict=True):
        columns[name] = slice(start, start + width)
        start += width
    return columns if columns.get("pos") else None


def read_plain_extxyz(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of an extended XYZ file whose columns are ``species`` and real numbers; others go through ASE."""
    with _open_text(path) as file:
        lines = file.read().split("\n")
    start, end = 0, len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    frame = 0
    while start < end:
        try:
            n = int(lines[start])
            if start + 2 + n > end:
                raise ValueError(f"the file ends inside it: {end - start - 2} of {n} atoms")
            info = _comment_pairs(lines[start + 1])
            columns = _columns(info)
            if columns is None:
                yield from islice(read_ase(path, keys), frame, None)
                return
            yield _plain_row(info, columns, lines[start + 2 : start + 2 + n], keys)
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{path}, row {frame}, line {start + 1}: not a whole frame: {error}.") from error
        start += 2 + n
        frame += 1


def _plain_row(info: Mapping[str, str], columns: Mapping[str, slice], body: list[str], keys: Keys) -> Row:
    symbols, numbers = zip(*(line.split(None, 1) for line in body), strict=True)
    width = max(column.stop for column in columns.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's way to say "not a number"
        table = np.fromstring(" ".join(numbers), sep=" ").reshape(len(body), width)
    lattice, pbc = info.get("Lattice"), info.get("pbc")
    cell = np.zeros((3, 3)) if lattice is None else _numbers(lattice).reshape(3, 3)
    periodic = [lattice is not None] * 3 if pbc is None else [flag[0] in "T1t" for flag in pbc.split()]
    labels: dict[str, Any] = {name: _numbers(info[name]) for name in (keys.stress,) if name in info}
    if keys.energy in info:
        labels[keys.energy] = float(info[keys.energy])
    return _row(
        np.array([atomic_numbers[symbol] for symbol in symbols]),
        table[:, columns["pos"]],
        cell,
        np.array(periodic),
        labels,
        info,
        {name: table[:, column] for name, column in columns.items()},
        keys,
        _formula(symbols),
    )


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=float)


# --- rMD17


def read_rmd17(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the frames of an rMD17 file (Christensen and von Lilienfeld 2020); kcal/mol become eV."""
    wanted = ("energies", "forces") if keys.labels == "revised" else ("old_energies", "old_forces")
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"nuclear_charges", "coords", *wanted} - set(arrays)
        if missing:
            raise DataError(f"{path} is no rMD17 file: it has no {', '.join(sorted(missing))}.")
        numbers, coords = arrays["nuclear_charges"].astype(np.int64), arrays["coords"]
        energies, forces = (arrays[name] * (kcal / mol) for name in wanted)
    if not len(coords) == len(energies) == len(forces):
        raise DataError(f"{path}: {len(coords)} structures, {len(energies)} energies, {len(forces)} forces.")
    molecule = path.name.removeprefix("rmd17_").split("_")[0]
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
