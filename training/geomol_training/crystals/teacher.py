"""The teacher: an ASE calculator in another process, with its own Python."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ase_geomol.errors import DataError, GeoMolError

SERVER = Path(__file__).with_name("_serve.py")
START_SECONDS = 300.0
"""For the teacher's imports and weights."""
LEAST_VOLUME = 1.5
"""Å³ of an atom. No crystal is as dense, and each atom of a denser one has hundreds of neighbours: minutes of work."""
MOST_NEIGHBORS = 8000
"""Of all atoms together, as many as lie within `REACH` at the mean density: what costs a teacher time and memory."""
REACH = 5.0
"""Å"""


class TeacherError(GeoMolError):
    """The teacher gives no answer for a structure."""


class Teacher(Calculator):
    """Energy, forces, the atoms' shares of the energy, if it knows them, and, of structures periodic in three
    directions, stress, asked of another process.

    Args:
        python: interpreter of an environment that has the teacher.
        calculator: what to import there, as ``module:name``.
        arguments: keywords that make it.
        seconds: of wall time for a structure; a teacher that takes longer is ended, and another one started.

    Raises:
        DataError: it does not start, or ends.
        TeacherError: it refuses a structure, takes too long, or gives numbers that are not finite.
    """

    implemented_properties = ["energy", "energies", "forces", "stress"]  # noqa: RUF012  (ASE's own interface)

    def __init__(self, python: Path, calculator: str, arguments: Mapping[str, Any], seconds: float = 60.0) -> None:
        super().__init__()
        self._command = [str(python), str(SERVER), calculator, json.dumps(dict(arguments))]
        self._seconds, self._end = seconds, float("inf")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it lives as long as the teacher)
        self._start()

    def limit(self, seconds: float) -> None:
        """From now on there are answers for so many seconds of wall time only."""
        self._end = time.monotonic() + seconds

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        assert isinstance(self.atoms, Atoms)
        if self.atoms.pbc.all():
            _check_density(self.atoms)
        left = self._end - time.monotonic()
        if left <= 0:
            raise TeacherError("no time left for this job")
        asked = {
            "numbers": self.atoms.numbers.tolist(),
            "positions": self.atoms.positions.tolist(),
            "cell": self.atoms.cell.array.tolist(),
            "pbc": self.atoms.pbc.tolist(),
        }
        try:
            found = self._answer(min(self._seconds, left), json.dumps(asked))
        except TimeoutError:
            self._start()
            raise TeacherError("no answer in time") from None
        if "error" in found:
            raise TeacherError(found["error"])
        self.results = {name: np.array(values) if name != "energy" else values for name, values in found.items()}
        if not all(np.isfinite(values).all() for values in self.results.values()):
            raise TeacherError("results that are not finite")

    def close(self) -> None:
        """End the other process."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
            self._answer(START_SECONDS)
        except TimeoutError:
            raise DataError(f"The teacher has not started in {START_SECONDS:.0f} s.") from None
        except OSError as error:
            raise DataError(
                f"The teacher's Python {self._command[0]} cannot be run: {error.strerror or error}."
            ) from error

    def _answer(self, seconds: float, asked: str | None = None) -> dict[str, Any]:
        """The next line of the other process, which is ended where that takes longer: TimeoutError."""
        process, late = self._process, Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def end() -> None:
            late.set()
            process.kill()

        timer = Timer(seconds, end)
        timer.start()
        try:
            if asked is not None:
                print(asked, file=process.stdin, flush=True)
            line = process.stdout.readline()
        except OSError:
            line = ""  # it has ended
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            process.wait()
            raise TimeoutError
        if not line:
            process.wait()
            raise DataError(f"The teacher ended: {self._last_error()}.")
        return json.loads(line)

    def _last_error(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]


def _check_density(atoms: Atoms) -> None:
    volume = atoms.get_volume() / len(atoms)
    if volume < LEAST_VOLUME:
        raise TeacherError(f"denser than an atom in {LEAST_VOLUME} Å³")
    if len(atoms) * (4 / 3) * np.pi * REACH**3 / volume > MOST_NEIGHBORS:
        raise TeacherError(f"more than {MOST_NEIGHBORS} neighbours")
