"""Results that are kept as they are computed: a job that was cut off retraces its steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ..calculator import told_changes
from ..errors import DataError
from .files import GrowingFile

Results = dict[str, Any]


class ResumableCalculator(Calculator):
    """Another calculator, each of whose results is kept in a file.

    A job that begins anew with the same file looks up what it has computed before, to the last bit, and so comes to
    where it was cut off in moments: phonons, elastic constants, relaxations, paths, whatever does not depend on chance.
    Structures that are not in the file are computed, so that a job may also be made longer, or have other settings.

    Args:
        calculator: any of ASE's.
        path: the file, one line of JSON for each structure. It is made where there is none.

    Raises:
        DataError: the file holds results of another calculator, or something else.
        OutputError: the file cannot be written, here or later.
    """

    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012 (ASE's class attribute)

    def __init__(self, calculator: Calculator, path: Path) -> None:
        super().__init__()
        self.calculator = calculator
        self.implemented_properties = list(calculator.implemented_properties)
        known = {"calculator": self.name, "parameters": dict(calculator.parameters or {})}
        self.identity: dict[str, Any] = getattr(calculator, "identity", known)
        self._earlier, size = _read(path, self._head())
        self._file = GrowingFile(path, size)
        if not size:
            self._file.write(self._head())

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the calculator."""
        return self.calculator.name or type(self.calculator).__name__

    @property
    def known(self) -> int:
        """Structures whose results were in the file from the beginning."""
        return len(self._earlier)

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes=all_changes
    ) -> None:
        """Look ``results`` up, or let the calculator compute them; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        key = _key(self.atoms)
        found = self._earlier.get(key, {})
        if not set(properties) <= found.keys():
            for name in properties:
                self.calculator.get_property(name, self.atoms)
            found = self.calculator.results
            plain = {name: np.asarray(value).tolist() for name, value in found.items()}
            self._file.write(json.dumps({"structure": key, "results": plain}) + "\n")
        self.results = dict(found)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Name what changed since the last calculation; charge and spin in ``atoms.info`` count."""
        return super().check_state(atoms, tol) + told_changes(self.atoms, atoms)

    def _head(self) -> str:
        return json.dumps({"identity": self.identity}, default=str) + "\n"


def _key(atoms: Atoms) -> str:
    """The same for structures that are equal to the last bit."""
    content = hashlib.sha256()
    for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        content.update(np.ascontiguousarray(part).tobytes())
    content.update(repr([atoms.info.get(name) for name in ("charge", "spin")]).encode())
    return content.hexdigest()


def _read(path: Path, head: str) -> tuple[dict[str, Results], int]:
    """Results by structure, and the bytes up to the last whole line; half a line is what an interrupt left."""
    if not path.exists():
        return {}, 0
    try:
        content = path.read_bytes()
        first, *lines = content[: content.rfind(b"\n") + 1].decode().splitlines(keepends=True) or [head]
        identity = json.loads(first)["identity"]
        found = dict(_result(line) for line in lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no results that could be looked up: {type(error).__name__}: {error}.") from error
    if first != head:
        raise DataError(f"{path} holds results of another calculator: {json.dumps(identity)}.")
    return found, content.rfind(b"\n") + 1


def _result(line: str) -> tuple[str, Results]:
    row = json.loads(line)
    results = {name: np.array(value) if isinstance(value, list) else value for name, value in row["results"].items()}
    return row["structure"], results
