"""OC20 as it is published: S2EF as extended XYZ with tables, relaxations as extended XYZ with a list of systems, IS2RE
and IS2RS (and older S2EF) as LMDB files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ase_geomol.errors import DataError

from ..frames import Row, damaged_row
from .damage import row_or_damage
from .extxyz import open_text, read_extxyz
from .keys import Keys
from .lmdb_files import Bag, open_lmdb, unpickle

TABLES = (".txt", ".txt.xz")
SYSTEMS = "system.txt"


def table_of(path: Path) -> Path | None:
    """The table beside an extended XYZ file: ``0.txt`` or ``0.txt.xz`` for ``0.extxyz.xz``; None without one.

    Raises:
        DataError: there is such a file, but its first line does not begin with a system and a frame.
    """
    if not _is_extxyz(path):
        return None
    table = next((path.with_name(name) for name in _tables(path.name) if path.with_name(name).exists()), None)
    if table is None:
        return None
    with open_text(table) as file:
        if re.match(r"(random)?\d+,", file.readline()):
            return table
    raise DataError(
        f"{table} is no table of OC20, with a system, a frame and a reference energy in each line, and without "
        f"references the energies of {path.name} would be total ones: download it again, or if the two have nothing to "
        "do with each other, give it another name."
    )


def check_tables(files: Iterable[Path]) -> None:
    """Refuse extended XYZ files without a table where others of the same folder have theirs, or without a list of
    systems where others have one.

    Raises:
        DataError: their energies would be total ones, beside others that are relative to references.
    """
    chosen: dict[Path, list[str]] = {}
    listed: list[Path] = []
    for path in files:
        if _is_extxyz(path) and systems_of(path) is not None:
            listed.append(path)
        elif _is_extxyz(path):
            chosen.setdefault(path.parent, []).append(path.name)
    bare = [
        folder / name
        for folder, names in chosen.items()
        for name in names
        if not any((folder / table).exists() for table in _tables(name))
    ]
    if listed and bare:
        raise DataError(
            f"{bare[0]} has no {SYSTEMS} with its reference energy, as {listed[0]} has, and would keep its "
            "total energies: read it apart, or add the list."
        )
    for folder, names in chosen.items():
        there = {entry.name for entry in folder.iterdir()}
        if not any(there.intersection(_tables(name)) for name in there if _is_extxyz(Path(name))):
            continue
        without = [name for name in names if not there.intersection(_tables(name))]
        if without:
            raise DataError(
                f"{folder / without[0]} has no table of references ({' or '.join(_tables(without[0]))}), unlike others "
                f"in this folder: {len(without)} of {len(names)} files would keep their total energies. Download the "
                "tables, or move these files elsewhere."
            )


def _is_extxyz(path: Path) -> bool:
    return ".extxyz" in path.suffixes[-2:]


def _tables(name: str) -> list[str]:
    """What the table of an extended XYZ file may be called."""
    stem = name[: name.index(".extxyz")]
    return [stem + ending for ending in TABLES]


def read_s2ef(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield frames with energies relative to the clean surface and the gas-phase adsorbate.

    A line of the table is ``random123,frame45,-67.8``: system, frame, and the reference energy (eV) to subtract.
    """
    table = table_of(path)
    assert table is not None
    with open_text(table) as file:
        lines = [line for line in file.read().split("\n") if line.strip()]
    for number, (row, line) in enumerate(zip_longest(read_extxyz(path, keys), lines)):
        if row is None or line is None:
            raise DataError(f"{path} and {table.name} do not belong together: one ends after {number} frames.")
        try:
            system, frame, reference = line.split(",")
            system, frame, reference = system.removeprefix("random"), frame.removeprefix("frame"), float(reference)
        except ValueError:
            yield damaged_row(f"{table.name}, line {number + 1}: not system, frame and energy: {line!r}")
            continue
        energy = None if row.energy is None else row.energy - reference
        yield row._replace(energy=energy, name=f"{system}_{frame}", group=system, trajectory=system)


def systems_of(path: Path) -> Path | None:
    """The list of systems that belongs to a relaxation: ``system.txt`` in the folder of ``random123.extxyz.xz``, or in
    the one above; None without one, or for other files.
    """
    if _system(path) is None:
        return None
    return next((folder / SYSTEMS for folder in path.absolute().parents[:2] if (folder / SYSTEMS).exists()), None)


def _system(path: Path) -> str | None:
    found = re.fullmatch(r"random(\d+)\.extxyz(\.xz|\.gz)?", path.name)
    return found[1] if found else None


def read_relaxation(path: Path, keys: Keys) -> Iterator[Row]:
    """Yield the frames of a relaxation, with energies relative to the clean surface and the gas-phase adsorbate.

    A line of the list is ``random123,-67.8``: system, and the reference energy (eV) to subtract.
    """
    systems, system = systems_of(path), _system(path)
    assert systems is not None
    assert system is not None
    reference = _references(systems, systems.stat().st_mtime_ns).get(system)
    if reference is None:
        raise DataError(f"{systems} has no reference energy of {path.name}, whose energies would be total ones.")
    for number, row in enumerate(read_extxyz(path, keys)):
        energy = None if row.energy is None else row.energy - reference
        yield row._replace(energy=energy, name=f"{system}_{number}", group=system, trajectory=system)


@lru_cache(maxsize=4)
def _references(systems: Path, changed: int) -> dict[str, float]:
    """Reference energies by system, of a list that was ``changed`` then."""
    found = {}
    for number, line in enumerate(systems.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            system, reference = line.split(",")
            found[system.strip().removeprefix("random")] = float(reference)
        except ValueError as error:
            raise DataError(f"{systems}, line {number}: not a system and its reference energy: {line!r}.") from error
    return found


def read_lmdb(path: Path, keys: Keys, part: slice = slice(None)) -> Iterator[Row]:
    """Yield the structures, or ``part`` of them, of an LMDB file of torch-geometric's objects: of IS2RE and IS2RS, or
    of S2EF.

    Nothing is unpickled but tensors, numbers and the objects' attributes.
    """
    with open_lmdb(path) as transaction:
        for index in range(_length(transaction))[part]:
            yield row_or_damage(_stored_row, transaction, index)


def count_structures(path: Path) -> int:
    """How many structures `read_lmdb` finds."""
    with open_lmdb(path) as transaction:
        return _length(transaction)


def _length(transaction: Any) -> int:
    stored = transaction.get(b"length")
    return int(unpickle(stored)) if stored is not None else transaction.stat()["entries"]


def _stored_row(transaction: Any, index: int) -> Row:
    content = transaction.get(str(index).encode())
    if content is None:
        raise DataError(f"entry {index} is missing")
    found = unpickle(content)
    if not isinstance(found, Bag):
        raise DataError(f"entry {index} is no object of torch-geometric")
    return _row(found.fields())


def _row(fields: dict[str, Any]) -> Row:
    missing = {"pos", "cell", "atomic_numbers"} - set(fields)
    if missing:
        raise DataError(f"no {', '.join(sorted(missing))}")
    system = str(int(fields["sid"])) if fields.get("sid") is not None else ""
    frame = f"_{int(fields['fid'])}" if fields.get("fid") is not None else ""
    energy = fields.get("y_relaxed", fields.get("y"))
    return Row(
        numbers=_array(fields["atomic_numbers"], np.int64),
        positions=_array(fields["pos"], float),
        cell=_array(fields["cell"], float).reshape(3, 3),
        pbc=np.ones(3, dtype=bool),
        energy=None if energy is None else float(energy),
        forces=_optional(fields, "force", float),
        group=system,
        trajectory=system,
        name=system + frame,
        tags=_optional(fields, "tags", np.int32),
        fixed=_optional(fields, "fixed", bool),
        relaxed=_optional(fields, "pos_relaxed", float),
    )


def _optional(fields: dict[str, Any], name: str, dtype: type) -> np.ndarray | None:
    return None if fields.get(name) is None else _array(fields[name], dtype)


def _array(values: Any, dtype: type) -> np.ndarray:
    return np.asarray(values).astype(dtype)
