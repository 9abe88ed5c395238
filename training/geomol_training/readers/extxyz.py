"""Extended XYZ with one symbol and otherwise numbers in a line: five times faster than by ASE."""

from __future__ import annotations

import gzip
import lzma
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from ase_geomol.errors import DataError

from ..frames import Row
from .ase_files import formula_of, make_row, read_ase
from .keys import Keys

_PLAIN = re.compile(r"species:S:1(?::\w+:[RIL]:\d+)+")
_PAIR = re.compile(r'([^\s="]+)=(?:"([^"]*)"|([^\s"{\[]+))(?:\s|$)')


def open_text(path: Path):
    """Open a text that may be compressed."""
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")


def is_plain_extxyz(path: Path) -> bool:
    """Whether its first frame is of this form."""
    with open_text(path) as file:
        file.readline()
        return _columns(_comment_pairs(file.readline())) is not None


def _comment_pairs(comment: str) -> dict[str, str]:
    return {name: quoted or bare for name, quoted, bare in _PAIR.findall(comment)}


def _columns(info: Mapping[str, str]) -> dict[str, slice] | None:
    """Columns of the properties, counted behind the symbol, or None if some are no numbers."""
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
    """Yield the rows of an extended XYZ file whose columns are ``species`` and numbers; others go through ASE."""
    with open_text(path) as file:
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
    text = " ".join(numbers)
    if ":L:" in info["Properties"]:
        text = text.replace("T", "1").replace("F", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's way to say "not a number"
        table = np.fromstring(text, sep=" ").reshape(len(body), width)
    lattice, pbc = info.get("Lattice"), info.get("pbc")
    cell = np.zeros((3, 3)) if lattice is None else _numbers(lattice).reshape(3, 3)
    periodic = [lattice is not None] * 3 if pbc is None else [flag[0] in "T1t" for flag in pbc.split()]
    arrays = {name: table[:, column] for name, column in columns.items()}
    arrays |= {name: arrays[name][:, 0] for name in ("tags", keys.energies) if name in arrays}
    labels: dict[str, Any] = {name: _numbers(info[name]) for name in (keys.stress,) if name in info}
    if keys.energy in info:
        labels[keys.energy] = float(info[keys.energy])
    row = make_row(
        np.array([atomic_numbers[symbol] for symbol in symbols]),
        table[:, columns["pos"]],
        cell,
        np.array(periodic),
        labels,
        info,
        arrays,
        keys,
        formula_of(symbols),
    )
    if "move_mask" not in columns:
        return row
    return row._replace(fixed=(table[:, columns["move_mask"]] == 0).all(1))


def _numbers(text: str) -> np.ndarray:
    return np.array(text.split(), dtype=float)
