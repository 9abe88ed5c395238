"""Readers: one for each kind of file. Units become eV and Å here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ase_geomol.errors import DataError

from ..frames import Row
from . import oc20, qm9
from .ase_files import read_ase, read_database, row_of_atoms
from .aselmdb import read_aselmdb
from .extxyz import is_plain_extxyz, read_plain_extxyz
from .keys import Keys
from .npz import read_npz

__all__ = ["Keys", "read_ase", "read_rows", "row_of_atoms", "start_and_end"]


def read_rows(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the rows of one file of any kind: all that ASE reads, (r)MD17, QM9, OC20.

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


def start_and_end(path: Path, keys: Keys) -> Row:
    """The start of the relaxation that a file holds, with energy and positions of its end.

    Raises:
        DataError: as `read_rows`; or the file has one frame only, or frames of other atoms.
    """
    rows = list(read_rows(path, keys))
    first, last = rows[0], rows[-1]
    if len(rows) == 1 or not np.array_equal(first.numbers, last.numbers):
        raise DataError(f"{path} is no relaxation: it needs two frames or more of the same atoms.")
    name = path.name.split(".")[0]
    return first._replace(energy=last.energy, forces=None, stress=None, relaxed=last.positions, name=name, group=name)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip().splitlines()[0].rstrip(".") + "."


def _reader_of(path: Path) -> Callable[[Path, Keys], Iterator[Row]]:
    if path.suffix == ".csv":
        return lambda path, keys: qm9.read_table(path, keys.energy)
    if path.suffix == ".xyz" and qm9.is_qm9_file(path):
        return lambda path, keys: qm9.read_file(path, keys.energy)
    if path.suffix == ".npz":
        return read_npz
    if path.suffix == ".db":
        return read_database
    if path.suffix == ".aselmdb":
        return read_aselmdb
    if path.suffix == ".lmdb":
        return oc20.read_lmdb
    if oc20.table_of(path) is not None:
        return oc20.read_s2ef
    if any(suffix in (".extxyz", ".xyz") for suffix in path.suffixes[-2:]) and is_plain_extxyz(path):
        return read_plain_extxyz
    return read_ase
