"""Results that are kept as they are computed: a job that was cut off retraces its steps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, all_properties

from ..calculator import told_changes
from ..errors import ConfigError, DataError, OutputError
from .files import GrowingFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Results = dict[str, Any]


class ResumableCalculator(Calculator):
    """Another calculator, each of whose results is kept in a file.

    A job that begins anew with the same file looks up what it has computed before, to the last bit, and so comes to
    where it was cut off in moments: phonons, elastic constants, relaxations, paths, whatever does not depend on chance.
    Structures that are not in the file are computed, so that a job may also be made longer, or have other settings.

    A structure is known by numbers, positions, cell, boundaries, tags, initial charges and magnetic moments, and by
    ``charge`` and ``spin`` in its ``info``; a calculator that reads more does not belong here.

    It knows the properties that ASE has names for: no standard deviations, of which an identity says nothing.

    Args:
        calculator: any of ASE's.
        path: the file, one line of JSON for each structure. It is made where there is none; from a damaged line on it
            is cut off, and computed again.
        identity: what decides the results beside the structure, to be written as JSON: two calculators with the same
            identity must compute the same. Default: ``calculator.identity``, which this package's have.
        about: more that the file is about, such as the name of the job.

    Raises:
        ConfigError: the identity is missing or cannot be written, or another calculator uses the file.
        DataError: the file holds results of another identity or about something else, or is no such file.
        OutputError: the file cannot be written, here or later.
    """

    def __init__(
        self,
        calculator: Calculator,
        path: str | Path,
        *,
        identity: Mapping[str, Any] | None = None,
        about: str = "",
    ) -> None:
        super().__init__()
        self.calculator, self.path = calculator, Path(path)
        self.implemented_properties = [name for name in calculator.implemented_properties if name in all_properties]
        self.ignored_changes = set(calculator.ignored_changes)
        self.identity = _identity(calculator, identity)
        head = json.dumps({"about": about, "identity": self.identity}) + "\n"
        self._lock = _locked(self.path)
        try:
            self._earlier, size = _read(self.path, head)
            self._file = GrowingFile(self.path, size)
            if not size:
                self._file.write(head)
        except BaseException:
            os.close(self._lock)
            raise

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
        """Look ``results`` up, or let the calculator compute them; called by ASE.

        Raises:
            DataError: a result is no number, or array of numbers.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        key = structure_key(self.atoms)
        line = self._earlier.get(key)
        results = {} if line is None else _results(line)
        if not set(properties) <= results.keys():
            line = self._computed(key, self.atoms, properties)
            self._file.write(line)
            results = _results(line)
        self.results = results

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Name what changed since the last calculation; charge and spin in ``atoms.info`` count."""
        return super().check_state(atoms, tol) + told_changes(self.atoms, atoms)

    def close(self) -> None:
        """Close the file, and leave it to others; then nothing more can be computed."""
        self._file.close()
        os.close(self._lock)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Neither copied nor sent to another process: one calculator writes one file."""
        raise TypeError(f"The calculator that writes {self.path} cannot be copied.")

    def _computed(self, key: str, atoms: Atoms, properties: Sequence[str]) -> str:
        for name in properties:
            self.calculator.get_property(name, atoms)
        found = self.calculator.results
        try:
            plain = {
                name: np.asarray(found[name], float).tolist() for name in self.implemented_properties if name in found
            }
        except (TypeError, ValueError) as error:
            raise DataError(f"A result of {self.name} cannot be kept in {self.path}: {error}.") from error
        return json.dumps({"structure": key, "results": plain}) + "\n"


def _identity(calculator: Calculator, given: Mapping[str, Any] | None) -> dict[str, Any]:
    identity = getattr(calculator, "identity", None) if given is None else given
    if not identity:
        raise ConfigError(
            f"{type(calculator).__name__} does not tell what decides its results: give an identity, such as its name, "
            "version and parameters."
        )
    try:
        return json.loads(json.dumps(dict(identity)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The identity of {type(calculator).__name__} cannot be written as JSON: {error}.") from error


def _locked(path: Path) -> int:
    """A handle that keeps other calculators off the file; where the system or the disk knows no locks, no more."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror or error}.") from error
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ConfigError(
                f"Another calculator writes {path}: wait for it, close() it, or choose another file."
            ) from error
        except OSError:
            pass
    return handle


def structure_key(atoms: Atoms) -> str:
    """The same for structures that are equal to the last bit."""
    content = hashlib.sha256()
    charges, moments = atoms.get_initial_charges(), atoms.get_initial_magnetic_moments()
    for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_tags(), charges, moments):
        content.update(f"{part.shape}{part.dtype}".encode())
        content.update(np.ascontiguousarray(part).tobytes())
    content.update(repr([atoms.info.get(name) for name in ("charge", "spin")]).encode())
    return content.hexdigest()


def _read(path: Path, head: str) -> tuple[dict[str, str], int]:
    """Lines by structure, and the bytes of all lines before the first one that is damaged, or was not ended."""
    content = path.read_bytes()
    if head.encode().startswith(content):
        return {}, 0
    first, *lines = content.splitlines(keepends=True)
    if first != head.encode():
        raise DataError(f"{path} holds other things than are asked for: {_shown(first)}.")
    found: dict[str, str] = {}
    size = len(first)
    for line in lines:
        try:
            text = line.decode()
            key = json.loads(text)["structure"]
            _results(text)
        except (ValueError, KeyError, TypeError, AttributeError):
            break
        if not text.endswith("\n"):
            break
        found[key] = text
        size += len(line)
    return found, size


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) < 300 else f"{text[:300]}…"


def _results(line: str) -> Results:
    """Of a line, the same whether it was just written or is of an earlier run."""
    found = json.loads(line)["results"].items()
    return {name: np.array(value, float) if isinstance(value, list) else float(value) for name, value in found}
