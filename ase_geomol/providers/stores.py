"""Files of structures that grow molecule by molecule and can be taken back to an earlier state."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ase.db
import numpy as np
from ase import Atoms
from ase.db.core import convert_str_to_int_float_bool_or_str
from ase.db.row import AtomsRow
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from ..errors import DataError, OutputError
from ..simulate.files import GrowingFile, frame_text
from ._rdkit import Chem
from .molecules import parse

FORMATS = (".extxyz", ".sdf", ".db")


class Store(Protocol):
    """A file that takes structures."""

    @property
    def mark(self) -> int:
        """How much there is; `open_store` with an earlier mark goes back to it."""
        ...

    def append(self, structures: Sequence[Atoms]) -> None:
        """Add structures, all or none; raises `OutputError`."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_store(path: Path, mark: int = 0) -> Store:
    """A store for the format that the file's name ends with.

    Args:
        path: ``.extxyz``, ``.sdf`` (with bonds, of at most 999 atoms in the older version of the format), or ``.db``
            (ASE's database).
        mark: keep this much of an existing file.

    Raises:
        OutputError: another format; the place cannot be written.
        DataError: the existing file has less than that.
    """
    if path.suffix not in FORMATS:
        raise OutputError(f"Conformers are written to {', '.join(FORMATS)}, not to {path.name}.")
    if mark and not path.is_file():
        raise _shortened(path)
    return _Database(path, mark) if path.suffix == ".db" else _Text(path, mark)


def _shortened(path: Path) -> DataError:
    return DataError(f"{path} lacks structures that were written to it: bring it back, or start anew with --overwrite.")


def write_structures(path: Path, structures: Sequence[Atoms]) -> None:
    """Write structures to a file as of `open_store`, whole or not at all.

    Raises:
        OutputError: another format; the place cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        store = open_store(temporary)
        try:
            store.append(structures)
        finally:
            store.close()
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def structure_text(atoms: Atoms, suffix: str) -> str:
    """One structure in extended XYZ or SDF, with all that its ``info`` says."""
    if suffix == ".extxyz":
        return frame_text(atoms, {key: _lasting(value) for key, value in atoms.info.items() if isinstance(value, str)})
    mol = parse(atoms).with_positions(atoms.positions)
    mol.SetProp("_Name", str(atoms.info.get("name") or atoms.info.get("smiles", "")))
    for key, value in _scalars(atoms).items():
        mol.SetProp(key, str(value))
    if atoms.calc is not None:
        mol.SetProp("energy_eV", repr(float(atoms.get_potential_energy())))
    text = io.StringIO()
    with Chem.SDWriter(text) as writer:
        writer.SetForceV3000(len(atoms) > 999)
        writer.write(mol)
    return text.getvalue()


def database_fields(atoms: Atoms) -> dict[str, Any]:
    """What ASE's databases do not take by themselves: ``database.write(atoms, **database_fields(atoms))``.

    What is in ``info`` can be selected by its name, the charge as ``total_charge`` (ASE's rows have another one), but
    for texts that look like numbers, which ASE refuses.
    """
    pairs = {key: value for key, value in _scalars(atoms).items() if not _looks_like_number(value)}
    pairs["total_charge"] = pairs.pop("charge")
    return {"key_value_pairs": pairs, "data": {"info": atoms.info, "formal_charge": atoms.arrays["formal_charge"]}}


def from_database(row: AtomsRow) -> Atoms:
    """Atoms of a row that was written with `database_fields`, with their ``info`` and ``arrays``."""
    atoms = row.toatoms()
    atoms.info.update(row.data["info"])
    atoms.set_array("formal_charge", np.asarray(row.data["formal_charge"]), int)
    return atoms


def _lasting(text: str) -> str:
    """A text so that extended XYZ gives it back: of "12" or "F" it would make a number or a truth value."""
    spelled = f"_JSON {json.dumps(text, ensure_ascii=False)}"
    return spelled if not _gives(text, text) and _gives(spelled, text) else text


def _gives(written: str, text: str) -> bool:
    """Whether extended XYZ with the one is read as the other."""
    try:
        found = key_val_str_to_dict(key_val_dict_to_str({"text": written}))["text"]
    except ValueError:  # what looks like JSON and is none
        return False
    return isinstance(found, str) and found == text


def _looks_like_number(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(convert_str_to_int_float_bool_or_str(value), str)


def _scalars(atoms: Atoms) -> dict[str, Any]:
    return {key: value for key, value in atoms.info.items() if key != "bonds"}


class _Text:
    def __init__(self, path: Path, mark: int) -> None:
        if mark and path.stat().st_size < mark:
            raise _shortened(path)
        self._suffix, self._file = path.suffix, GrowingFile(path, mark)

    @property
    def mark(self) -> int:
        return self._file.size

    def append(self, structures: Sequence[Atoms]) -> None:
        self._file.write("".join(structure_text(atoms, self._suffix) for atoms in structures))

    def close(self) -> None:
        self._file.close()


class _Database:
    def __init__(self, path: Path, mark: int) -> None:
        self._path, self._mark = path, mark
        try:
            if mark == 0:
                path.unlink(missing_ok=True)
            self._database = ase.db.connect(path, type="db", use_lock_file=False)  # a lock would outlive a kill
            if mark and not self._database.count(f"id={mark}"):
                raise _shortened(path)
            if mark:
                self._database.delete([row.id for row in self._database.select(f"id>{mark}")])
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error

    @property
    def mark(self) -> int:
        return self._mark

    def append(self, structures: Sequence[Atoms]) -> None:
        try:
            with self._database as database:  # pyright: ignore[reportGeneralTypeIssues]
                rows = [database.write(atoms, **database_fields(atoms)) for atoms in structures]
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"Cannot write {self._path}: {error}.") from error
        self._mark = max([self._mark, *rows])

    def close(self) -> None:
        pass
