"""Files of SMILES strings: one a line, followed by a name or by nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from ase import Atoms

from ..errors import InputError, ProviderError
from .etkdg import RDKitProvider


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


def parse_lines(text: Iterable[str]) -> list[Line]:
    """The molecules of a file; empty lines, lines that begin with #, and a header "SMILES …" are left out."""
    lines = []
    for number, line in enumerate(text, start=1):
        smiles, _, name = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        if smiles and not smiles.startswith("#") and not (number == 1 and smiles.lower() == "smiles"):
            lines.append(Line(number, smiles, name.strip()))
    return lines


def read_lines(path: Path) -> list[Line]:
    """The molecules of a file.

    Raises:
        InputError: it cannot be read, or there are none.
    """
    try:
        lines = parse_lines(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not lines:
        raise InputError(f"There are no molecules in {path}.")
    return lines


def read_smiles(file: TextIO, index: int | slice = -1, *, seed: int = 0) -> Iterator[Atoms]:
    """Read a file of SMILES strings with ASE: one conformer of each, by `RDKitProvider`.

    ``ase.io.read("molecules.smi", ":")``. What follows a SMILES string is kept as ``info["name"]``.

    Args:
        file: opened for reading.
        index: which molecules.
        seed: of the conformers.

    Raises:
        InputError: a line that is no molecule or of which there is no structure, with its number.
    """
    lines = parse_lines(file)
    provider = RDKitProvider()
    for line in lines[index] if isinstance(index, slice) else [lines[index]]:
        try:
            (atoms,) = provider.sample(line.smiles, seed=seed)
        except (InputError, ProviderError) as error:
            raise InputError(f"Line {line.number}: {error}") from error
        atoms.info.update({"name": line.name} if line.name else {})
        yield atoms
