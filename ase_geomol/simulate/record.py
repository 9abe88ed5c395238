"""The folder of a molecular-dynamics run: trajectory, log, and the state from which it is resumed."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.io import read

from ..errors import DataError, OutputError
from ..files import make_folder, write_atomically
from .files import GrowingFile, frame_text

TRAJECTORY, LOG, STATE = "trajectory.extxyz", "log.csv", "state.json"
RUN_FILES = (TRAJECTORY, LOG, STATE, "final.extxyz", "summary.png", "structure.png")
"""All that a run's folder may hold; the command line adds the last three when a run has ended."""
SAVE_EVERY = 2.0
"""Seconds of wall time between two savings of the state."""

Row = dict[str, float]
"""One line of the log by column name: step, time_fs, potential_eV, kinetic_eV, total_eV, temperature_K, and
volume_A3 at constant pressure, energy_std_eV from a committee, or from a rigidity that was asked for it."""


class Snapshot(NamedTuple):
    """A run between two steps; floats are kept to the last bit.

    Attributes:
        step: steps done.
        positions: (N, 3) Å.
        momenta: (N, 3) in ASE's units.
        cell: (3, 3) Å.
        rng: state of the random numbers.
        barostat: momentum of the cell and the force on it, or None.
        broken: broken bonds so far, as keyword arguments of `BrokenBond`.
        sizes: bytes of trajectory and log that belong to these steps. What stands behind them, as the last step of
            a finished run, is cut off when the run goes on.
    """

    step: int
    positions: Any
    momenta: Any
    cell: Any
    rng: dict[str, Any]
    barostat: tuple[float, float] | None
    broken: list[dict[str, Any]]
    sizes: tuple[int, int]


def claim_folder(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Make the folder of a run, or see that it may be continued or replaced.

    Raises:
        OutputError: it holds a run and neither ``resume`` nor ``overwrite`` is set; it cannot be written.
        DataError: there is no run to resume.
    """
    if resume and not (folder / STATE).is_file():
        raise DataError(f"{folder} holds no run that could be resumed: it has no {STATE}.")
    taken = any((folder / name).exists() for name in (TRAJECTORY, STATE))
    if taken and not (resume or overwrite):
        raise OutputError(
            f"{folder} holds a run already: continue it with --resume, replace it with --overwrite, or choose "
            "another folder."
        )
    make_folder(folder)


def load_snapshot(folder: Path, identity: Mapping[str, Any], numbers: np.ndarray) -> Snapshot:
    """Read the state of an interrupted run, and see that it is the run that is asked for.

    Raises:
        DataError: the state is damaged, trajectory or log are missing or too short, or the run was made with other
            settings, another calculator or another structure.
    """
    path = folder / STATE
    try:
        content = json.loads(path.read_text())
        snapshot = Snapshot(**content["snapshot"])
        sizes = [int(size) for size in snapshot.sizes]
        old, old_numbers = content["identity"], content["numbers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if old_numbers != numbers.tolist():
        raise DataError(f"The run in {folder} is of another structure: its atoms differ.")
    for key, value in identity.items():
        if old.get(key) != value:
            raise DataError(
                f"The run in {folder} was made with {key} {old.get(key)}, not {value}: give the same, or start "
                "another run."
            )
    for name, size in zip((TRAJECTORY, LOG), sizes, strict=False):
        if not (folder / name).is_file() or (folder / name).stat().st_size < size:
            raise DataError(f"{folder / name} is missing or shorter than the run that {STATE} describes.")
    return snapshot


def load_first_frame(folder: Path) -> Atoms:
    """Read the structure that a run started from.

    Raises:
        DataError: the trajectory cannot be read.
    """
    try:
        first = read(folder / TRAJECTORY, 0, format="extxyz")
    except Exception as error:  # whatever ASE's reader meets in a damaged file
        raise DataError(f"{folder / TRAJECTORY} cannot be read: {type(error).__name__}: {error}") from error
    assert isinstance(first, Atoms)
    return first


def read_log(folder: Path) -> dict[str, np.ndarray]:
    """Columns of a run's log by name, see `Row`.

    Raises:
        DataError: it is missing, damaged or empty.
    """
    try:
        with open(folder / LOG, newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{folder / LOG} cannot be read: {error}") from error
    if not rows or "time_fs" not in rows[0]:
        raise DataError(f"{folder / LOG} holds no steps of a run.")
    return columns(rows)


def columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Turn rows into columns."""
    return {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else {}


def clear_folder(folder: Path) -> None:
    """Remove what an earlier run left there, so that nothing old stands beside a new one."""
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)


class Recorder:
    """Writes a run's folder as it goes.

    Args:
        folder: claimed before by `claim_folder`.
        identity: what must not change when the run is resumed.
        snapshot: where an interrupted run goes on; anything written later is cut off.

    Raises:
        OutputError: here and later, if the folder cannot be written or the disk is full.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], snapshot: Snapshot | None) -> None:
        self._state = folder / STATE
        self._identity = identity
        sizes = snapshot.sizes if snapshot else (0, 0)
        if snapshot is None:
            self._state.unlink(missing_ok=True)
        self._trajectory = GrowingFile(folder / TRAJECTORY, sizes[0])
        self._log = GrowingFile(folder / LOG, sizes[1])
        with open(folder / LOG) as log:
            self._columns = log.readline().strip().split(",") if sizes[1] else []
        self._saved = time.monotonic()

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of trajectory and log so far."""
        return self._trajectory.size, self._log.size

    def record(self, row: Row, atoms: Atoms) -> None:
        """Append one frame and one line."""
        self._trajectory.write(frame_text(atoms, {"step": int(row["step"]), "time_fs": row["time_fs"]}))
        first = not self._columns
        self._columns = self._columns or list(row)  # a resumed run keeps those that it began with
        lines = [",".join(self._columns)] if first else []
        lines.append(",".join(f"{row.get(name, np.nan):.10g}" for name in self._columns))
        self._log.write("\n".join(lines) + "\n")

    def save(self, snapshot: Snapshot, numbers: np.ndarray, *, now: bool = True) -> None:
        """Write the state, or (not ``now``) only if the last one is some seconds old."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY:
            return
        content = {
            "identity": dict(self._identity),
            "numbers": numbers.tolist(),
            "snapshot": {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in snapshot._asdict().items()
            },
        }
        write_atomically(self._state, json.dumps(content).encode())
        self._saved = time.monotonic()

    def close(self) -> None:
        """Close the files."""
        self._trajectory.close()
        self._log.close()
