"""ASE-LMDB databases (``.aselmdb``): rows of ASE's database as compressed JSON, as large data sets are published."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ase_geomol.errors import DataError, MissingExtraError, OutputError
from ase_geomol.files import make_folder

from ..frames import Row
from .ase_files import formula_of, make_row
from .damage import row_or_damage
from .keys import Keys
from .lmdb_files import open_lmdb

MAP_SIZE = 1 << 40
"""Bytes that a database may grow to; nothing is taken before it is needed."""


def read_aselmdb(path: Path, keys: Keys, part: slice = slice(None)) -> Iterator[Row]:
    """Yield the rows, or ``part`` of them, in the order of their numbers; ``data`` and key-value pairs stand in the
    place of ``info``.
    """
    with open_lmdb(path) as transaction:
        for number in _numbers(transaction)[part]:
            yield row_or_damage(_stored_row, transaction, number, keys)


def count_rows(path: Path) -> int:
    """How many rows `read_aselmdb` finds."""
    with open_lmdb(path) as transaction:
        return len(_numbers(transaction))


def _numbers(transaction: Any) -> list[int]:
    """The rows' numbers, ascending."""
    stored = transaction.get(b"deleted_ids")
    deleted = set(json.loads(zlib.decompress(stored))) if stored is not None else set()
    numbers = {int(key) for key in transaction.cursor().iternext(values=False) if key.isdigit()}
    return sorted(numbers - deleted)


def _stored_row(transaction: Any, number: int, keys: Keys) -> Row:
    return _row(json.loads(zlib.decompress(transaction.get(str(number).encode()))), keys)


def _row(fields: dict[str, Any], keys: Keys) -> Row:
    info = {**fields.get("key_value_pairs", {}), **fields.get("data", {})}
    numbers = _array(fields["numbers"]).astype(np.int64)
    pbc = _array(fields["pbc"])
    formula = formula_of((chemical_symbols[number] for number in numbers), pbc)
    arrays = {name: _array(fields[name]) for name in ("tags",) if fields.get(name) is not None}
    results = {name: fields[name] for name in ("energy", keys.energy) if fields.get(name) is not None}
    results |= {
        name: _array(fields[name]) for name in (keys.forces, keys.energies, keys.stress) if fields.get(name) is not None
    }
    if "y_relaxed" in info and keys.energy == "energy":  # of IS2RE and IS2RS: the energy of the end is the label
        results[keys.energy] = info["y_relaxed"]
    cell = fields["cell"]
    row = make_row(
        numbers,
        _array(fields["positions"]),
        _array(cell["array"] if isinstance(cell, dict) and "array" in cell else cell).reshape(3, 3),
        pbc,
        results,
        {"molecule": info.get("sid", formula), "name": _name(info), "trajectory": info.get("sid", ""), **info},
        arrays,
        keys,
        formula,
    )
    held = [c["kwargs"]["indices"] for c in fields.get("constraints") or [] if c.get("name") == "FixAtoms"]
    if held:
        fixed = np.zeros(len(numbers), dtype=bool)
        fixed[np.concatenate(held).astype(int)] = True
        row = row._replace(fixed=fixed)
    relaxed = info.get("pos_relaxed")
    return row if relaxed is None else row._replace(relaxed=_array(relaxed).astype(float))


def _name(info: dict[str, Any]) -> str:
    """OC20's system, and the frame of its relaxation if there are several."""
    return "_".join(str(info[key]) for key in ("sid", "fid") if info.get(key) is not None)


def _array(values: Any) -> np.ndarray:
    """Nested lists, or what ASE's JSON makes of an array."""
    if isinstance(values, dict) and "__ndarray__" in values:
        shape, dtype, flat = values["__ndarray__"]
        return np.array(flat, dtype=dtype).reshape(shape)
    array = np.asarray(values)
    return array.astype(float) if array.dtype == object else array  # a missing number becomes NaN


def write_aselmdb(path: Path, rows: Iterable[Row]) -> int:
    """Write rows to a new database; returns how many.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lmdb", "train", "Writing LMDB files") from error
    if path.exists():
        raise OutputError(f"{path} exists: delete it, or choose another name.")
    make_folder(path.parent)
    count, unfinished = 0, path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        environment = lmdb.open(str(unfinished), subdir=False, map_size=MAP_SIZE, lock=False, sync=False)
        with environment.begin(write=True) as transaction:
            for count, row in enumerate(rows, start=1):
                transaction.put(str(count).encode(), zlib.compress(json.dumps(_fields(row)).encode()))
            for name, value in (("nextid", count + 1), ("deleted_ids", [])):
                transaction.put(name.encode(), zlib.compress(json.dumps(value).encode()))
        environment.sync()
        environment.close()
        unfinished.rename(path)
    except (OSError, lmdb.Error) as error:
        raise OutputError(f"Cannot write {path}: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    if count == 0:
        path.unlink()
        raise DataError("There are no rows to write.")
    return count


def _fields(row: Row) -> dict[str, Any]:
    names = {"molecule": row.group, "name": row.name, "split": row.split, "source": row.source}
    data: dict[str, Any] = {**names, "trajectory": row.trajectory}
    if row.name:
        data["sid"] = row.name
    if row.relaxed is not None:
        data |= {"pos_relaxed": row.relaxed.tolist(), "y_relaxed": row.energy}
    fields: dict[str, Any] = {
        "numbers": row.numbers.tolist(),
        "positions": row.positions.tolist(),
        "cell": row.cell.tolist(),
        "pbc": row.pbc.tolist(),
        "energy": row.energy,
        "key_value_pairs": {"charge": row.charge, "spin": row.spin},
        "data": data,
    }
    for name in ("forces", "energies", "stress", "tags"):
        values = getattr(row, name)
        if values is not None:
            fields[name] = values.tolist()
    if row.fixed is not None and row.fixed.any():
        fields["constraints"] = [{"name": "FixAtoms", "kwargs": {"indices": np.flatnonzero(row.fixed).tolist()}}]
    return fields
