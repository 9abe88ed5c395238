"""Files of SMILES strings: one a line, followed by a name or by nothing."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from ase import Atoms

from ..errors import InputError, ProviderError


class Line(NamedTuple):
    """One molecule of a file.

    Attributes:
        number: of the line, from 1.
        smiles: as it stands there.
        name: what follows, or nothing.
    """

    number: int
    smiles: str
    name: str


def parse_lines(text: Iterable[str], *, commas: bool = False) -> list[Line]:
    """The molecules of a file; empty lines, lines that begin with #, and a header "SMILES …" are left out.

    Args:
        text: lines.
        commas: split lines that have commas there; then a header may have the column of SMILES strings anywhere.
    """
    lines, smiles_at = [], 0
    for number, line in enumerate(text, start=1):
        cells = _cells(line.removeprefix("\ufeff").strip(), commas)  # what some editors begin a file with
        header = [cell.lower() for cell in cells]
        if number == 1 and "smiles" in (header if commas else header[:1]):
            smiles_at = header.index("smiles")
        elif any(cells) and not cells[0].startswith("#"):
            smiles = "".join(cells[smiles_at : smiles_at + 1])  # nothing is refused as nothing, not passed over
            lines.append(Line(number, smiles, "".join([*cells[:smiles_at], *cells[smiles_at + 1 :]][:1])))
    return lines


def _cells(line: str, commas: bool) -> list[str]:
    if commas and "," in line:
        with any_length():
            return [cell.strip() for cell in next(csv.reader([line]))]
    return [cell.strip() for cell in line.split("\t" if "\t" in line else " ", 1)]


@contextmanager
def any_length() -> Iterator[None]:
    """Read cells of any length: what is too long is refused by a sentence, which keeps it."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_lines(path: Path) -> list[Line]:
    """The molecules of a file, whose columns may be divided by commas if its name ends in ``.csv``.

    Raises:
        InputError: it cannot be read, or there are none.
    """
    try:
        # A byte that is no UTF-8 spoils its own line only, which is refused as any that is no molecule.
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(f"{path} cannot be read: it is no text in UTF-8.")
        text = content.decode("utf-8", errors="replace")
        lines = parse_lines(io.StringIO(text, newline=None), commas=path.suffix.lower() == ".csv")
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not lines:
        raise InputError(f"There are no molecules in {path}.")
    return lines


def read_smiles(file: TextIO, index: int | slice = -1, *, seed: int = 0) -> Iterator[Atoms]:
    """Read a file of SMILES strings with ASE: one conformer of each, by `RDKitProvider`.

    ``ase.io.read("molecules.smi", ":")``. What follows a SMILES string is kept as ``info["name"]``. If it looks like a
    number or a truth value ("12", "T"), it becomes one in extended XYZ that ASE writes, but not in what
    `ase_geomol.providers.stores` does.

    Args:
        file: opened for reading.
        index: which molecules.
        seed: of the conformers.

    Raises:
        InputError: a line that is no molecule or of which there is no structure, with its number; no molecules, or
            none from ``index`` on. A slice that ends, such as "10:20", may be empty.
        MissingExtraError: RDKit is not installed; where this file is imported ASE would make another error of it.
    """
    from .etkdg import RDKitProvider

    provider = RDKitProvider()
    for line in _chosen(parse_lines(file), index, getattr(file, "name", "this file")):
        try:
            (atoms,) = provider.sample(line.smiles, seed=seed)
        except (InputError, ProviderError) as error:
            raise InputError(f"Line {line.number}: {error}") from error
        atoms.info.update({"name": line.name} if line.name else {})
        yield atoms


def _chosen(lines: list[Line], index: int | slice, name: str) -> list[Line]:
    """The lines of an index, which ASE makes a slice without an end where one molecule is to be read."""
    if not lines:
        raise InputError(f"There are no molecules in {name}.")
    single = not isinstance(index, slice)
    wanted = slice(index, index + 1 or None) if single else index
    if not (chosen := lines[wanted]) and (single or (wanted.stop is None and wanted.start is not None)):
        raise InputError(f"There is no molecule from index {wanted.start} on in {name}, which has {len(lines)}.")
    return chosen
