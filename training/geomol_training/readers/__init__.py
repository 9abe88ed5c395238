"""Readers: one for each kind of file. Units become eV and Å here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ase_geomol.errors import DataError, GeoMolError

from ..frames import Row
from . import aselmdb, gaps, oc20, qm9, vasp
from .ase_files import read_ase, read_database, read_trajectory, row_of_atoms
from .damage import sentence
from .extxyz import is_extxyz, read_extxyz
from .keys import Keys
from .npz import portion_of_archive, read_npz
from .pymatgen_json import is_json, read_json

__all__ = [
    "Keys",
    "files_read",
    "parts_of",
    "read_ase",
    "read_intact_rows",
    "read_rows",
    "row_of_atoms",
    "start_and_end",
]


class Database(NamedTuple):
    """A kind of file that is read from any row on: how its rows are counted, and how a part of them is read."""

    count: Callable[[Path], int]
    read: Callable[[Path, Keys, slice], Iterator[Row]]


ASELMDB = Database(aselmdb.count_rows, aselmdb.read_aselmdb)
LMDB = Database(oc20.count_structures, oc20.read_lmdb)
TABLE = Database(gaps.count_lines, gaps.read_table)
SDF = Database(gaps.count_molecules, gaps.read_sdf)


def _database(path: Path) -> Database | None:
    if path.suffix in (".aselmdb", ".lmdb"):
        return ASELMDB if path.suffix == ".aselmdb" else LMDB
    if path.suffix == ".sdf" and gaps.table_of(path) is not None:
        return SDF
    return TABLE if gaps.is_table(path) else None


def read_rows(path: Path, keys: Keys, part: slice = slice(None)) -> Iterator[Row]:
    """Yield the rows of one file of any kind: all that ASE reads, pymatgen's structures as JSON, (r)MD17, QM9, OC20,
    PCQM4Mv2, Molecule3D.

    In the place of a row that cannot be read stands one with its ``damage``, if the file goes on behind it. A
    trajectory is the file, unless that tells of several. ``part`` is all, or one of `parts_of` the file.

    Raises:
        DataError: the file is empty, damaged as a whole, or of an unknown kind.
    """
    count = 0
    with _readable(path):
        database = _database(path)
        rows = _reader_of(path)(path, keys) if database is None else database.read(path, keys, part)
        try:
            for row in rows:
                count += 1
                yield row if row.trajectory else row._replace(trajectory=str(path))
        except Exception as error:
            if count == 0 or isinstance(error, GeoMolError | MemoryError):
                raise
            row = count + (part.start or 0)
            raise DataError(f"{path}, row {row}, and what follows cannot be read: {sentence(error)}") from error
    if count == 0 and part == slice(None):
        raise DataError(f"{path} holds no frames.")


def read_intact_rows(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield all rows of one file, as `read_rows`; raises :class:`DataError` at one that cannot be read, too."""
    for number, row in enumerate(read_rows(path, keys)):
        if row.damage:
            raise DataError(f"{path}, row {number}: {row.damage}.")
        yield row


def parts_of(path: Path, size: int) -> list[slice]:
    """Parts of ``size`` rows in which several processes can read one file; one part where it has to be read in order.

    Raises:
        DataError: the file is empty or damaged.
    """
    with _readable(path):
        database = _database(path)
        if database is None:
            return [slice(None)]
        return [slice(start, start + size) for start in range(0, max(1, database.count(path)), size)]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong inside, as a sentence about the file."""
    try:
        for file in portion_of_archive(path) or (path,):
            if file.stat().st_size == 0:
                raise DataError(f"{file} is empty.")
        yield
    except (GeoMolError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except Exception as error:  # ASE's readers raise whatever their format trips over
        raise DataError(f"{path} is damaged or not of the kind its name says: {sentence(error)}") from error


def files_read(path: Path) -> list[Path]:
    """The files that are read for one: itself, and tables of references or properties, splits, constraints beside it.

    Of a name that means a portion of rMD17's archive, those of the archive.
    """
    portion = portion_of_archive(path)
    if portion is not None:
        return list(portion)
    table = oc20.table_of(path)
    systems = oc20.systems_of(path)
    beside = [found for found in (table, systems) if found is not None]
    if path.suffix == ".sdf" or gaps.is_table(path):
        beside = gaps.files_beside(path)
    if vasp.is_outcar(path):
        beside = vasp.files_beside(path)
    if path.suffix == ".xyz" and (failed := path.with_name(qm9.FAILED)).exists() and qm9.is_qm9_file(path):
        beside = [failed]
    return [path, *beside]


def start_and_end(path: Path, keys: Keys) -> Row:
    """The start of the relaxation that a file holds, with energy and positions of its end.

    Raises:
        DataError: as `read_rows`; or the file has one frame only, or frames of other atoms.
    """
    rows = list(read_intact_rows(path, keys))
    first, last = rows[0], rows[-1]
    if len(rows) == 1 or not np.array_equal(first.numbers, last.numbers):
        raise DataError(f"{path} is no relaxation: it needs two frames or more of the same atoms.")
    name = path.name.split(".")[0] if first.trajectory == str(path) else first.trajectory
    return first._replace(energy=last.energy, forces=None, stress=None, relaxed=last.positions, name=name, group=name)


def _reader_of(path: Path) -> Callable[[Path, Keys], Iterator[Row]]:
    if path.suffix == ".csv":
        return lambda path, keys: qm9.read_table(path, keys.energy)
    if path.suffix == ".xyz" and qm9.is_qm9_file(path):
        return lambda path, keys: qm9.read_file(path, keys.energy)
    if path.suffix == ".npz" and path.exists() and qm9.are_arrays(path):
        return lambda path, keys: qm9.read_arrays(path, keys.energy)
    if path.suffix == ".npz":
        return read_npz
    if path.suffix == ".db":
        return read_database
    if path.suffix == ".traj":
        return read_trajectory
    if is_json(path):
        return read_json
    if oc20.table_of(path) is not None:
        return oc20.read_s2ef
    if oc20.systems_of(path) is not None:
        return oc20.read_relaxation
    if is_extxyz(path):
        return read_extxyz
    return vasp.read_vasp if vasp.is_vasprun(path) or vasp.is_outcar(path) else read_ase
