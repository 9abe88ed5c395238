"""The teacher: an ASE calculator in another process, with its own Python."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ase_geomol.errors import DataError, GeoMolError

SERVER = Path(__file__).with_name("_serve.py")


LEAST_VOLUME = 1.5
"""Å³ of an atom. No crystal is as dense, and each atom of a denser one has hundreds of neighbours: minutes of work."""


class TeacherError(GeoMolError):
    """The teacher gives no answer for a structure."""


class Teacher(Calculator):
    """Energy, forces, the atoms' shares of the energy, if it knows them, and, of structures periodic in three
    directions, stress, asked of another process.

    Args:
        python: interpreter of an environment that has the teacher.
        calculator: what to import there, as ``module:name``.
        arguments: keywords that make it.

    Raises:
        DataError: it does not start, or ends.
        TeacherError: it refuses a structure, or gives numbers that are not finite.
    """

    implemented_properties = ["energy", "energies", "forces", "stress"]  # noqa: RUF012  (ASE's own interface)

    def __init__(self, python: Path, calculator: str, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it lives as long as the teacher)
        command = [str(python), str(SERVER), calculator, json.dumps(dict(arguments))]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            raise DataError(f"The teacher's Python {python} cannot be run: {error.strerror or error}.") from error
        self._answer()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        assert isinstance(self.atoms, Atoms)
        assert self._process.stdin is not None
        if self.atoms.pbc.all() and self.atoms.get_volume() < LEAST_VOLUME * len(self.atoms):
            raise TeacherError(f"denser than an atom in {LEAST_VOLUME} Å³")
        asked = {
            "numbers": self.atoms.numbers.tolist(),
            "positions": self.atoms.positions.tolist(),
            "cell": self.atoms.cell.array.tolist(),
            "pbc": self.atoms.pbc.tolist(),
        }
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        except OSError:
            raise DataError(f"The teacher ended: {self._last_error()}.") from None
        found = self._answer()
        if "error" in found:
            raise TeacherError(found["error"])
        self.results = {name: np.array(values) if name != "energy" else values for name, values in found.items()}
        if not all(np.isfinite(values).all() for values in self.results.values()):
            raise TeacherError("results that are not finite")

    def close(self) -> None:
        """End the other process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise DataError(f"The teacher ended: {self._last_error()}.")
        return json.loads(line)

    def _last_error(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
