"""What can go wrong in molecular dynamics, noticed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from ..errors import ConfigError, GeoMolError

BONDED = 1.2
"""Atoms closer than this many sums of covalent radii are bonded."""
STRETCHED = 2.0
"""A bond longer than this many times its first length is broken."""
HOT = 20.0
"""Times the target temperature (at least 100 K) that no simulation reaches unless it explodes."""


@dataclass(frozen=True)
class BrokenBond:
    """A bond of the first structure that was seen stretched to more than twice its length.

    Attributes:
        atoms: the two indices.
        label: for example "C3-H7".
        time: fs, when it was first seen broken.
    """

    atoms: tuple[int, int]
    label: str
    time: float

    def __str__(self) -> str:
        return f"broken bond {self.label} at {self.time / 1000:.3g} ps"


@dataclass(frozen=True)
class Departure:
    """Where a simulation left what its potential knows.

    Attributes:
        time: fs.
        atom: index of the most uncertain atom.
        label: for example "C3".
        std: eV, the standard deviation of this atom's energy.
        limit: eV.
    """

    time: float
    atom: int
    label: str
    std: float
    limit: float

    def __str__(self) -> str:
        return (
            f"The run left what the potential knows at {self.time / 1000:.4g} ps: the energy of {self.label} is "
            f"uncertain by {self.std:.3g} eV, above {self.limit:g} eV."
        )


def check_limit(calculator: Any, limit: float) -> None:
    """See that a simulation can be stopped where an atom's energy is uncertain by more than ``limit`` (eV).

    Raises:
        ConfigError: the limit is no positive number, or the calculator knows no ``energies_std``.
    """
    if not (isinstance(limit, Real) and 0 < limit < np.inf):
        raise ConfigError(f"stop_above is {limit!r}; it must be a positive number of eV.")
    if "energies_std" not in calculator.implemented_properties:
        raise ConfigError(
            f"{getattr(calculator, 'name', type(calculator).__name__)} cannot tell how uncertain an atom's energy is: "
            "leave --stop-above out, or take one potential with a rigidity (geomol-train rigidity adds it to weights)."
        )


def find_departure(atoms: Atoms, time: float, limit: float) -> Departure | None:
    """Where the energy of the most uncertain atom is uncertain by more than ``limit`` (eV), at ``time`` (fs)."""
    deviations = np.asarray(atoms.calc.get_property("energies_std", atoms))  # type: ignore[union-attr]
    atom = int(deviations.argmax())
    if deviations[atom] <= limit:
        return None
    return Departure(time, atom, f"{atoms.symbols[atom]}{atom}", float(deviations[atom]), limit)


class BondWatch:
    """Compares bond lengths with those of a first structure.

    Args:
        atoms: the structure whose bonds are watched.
        broken: bonds known to be broken already.
    """

    def __init__(self, atoms: Atoms, broken: tuple[BrokenBond, ...] = ()) -> None:
        first, second, length, shift = find_bonds("ijdS", atoms)
        once = (first < second) | ((first == second) & np.array([tuple(s) > (0, 0, 0) for s in shift], dtype=bool))
        self._first, self._second = first[once], second[once]
        self._length, self._shift = length[once], shift[once]
        self.broken = broken

    def look(self, atoms: Atoms, time: float) -> None:
        """Add bonds that are broken now, at ``time`` (fs), to ``broken``."""
        vectors = atoms.positions[self._second] - atoms.positions[self._first] + self._shift @ atoms.cell.array
        stretched = np.linalg.norm(vectors, axis=1) > STRETCHED * self._length
        if not stretched.any():
            return
        known = {bond.atoms for bond in self.broken}
        pairs = zip(self._first[stretched].tolist(), self._second[stretched].tolist(), strict=True)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        symbols = atoms.symbols
        self.broken += tuple(BrokenBond((i, j), f"{symbols[i]}{i}-{symbols[j]}{j}", time) for i, j in new)


def find_bonds(quantities: str, atoms: Atoms) -> tuple[np.ndarray, ...]:
    """ASE's neighbour list of bonded atoms; cell vectors along which nothing repeats mean nothing and are not read."""
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    repeated = Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=atoms.pbc)
    return neighbor_list(quantities, repeated, BONDED * covalent_radii[atoms.numbers])


def check_alive(row: Mapping[str, float], temperature: float) -> None:
    """Stop a simulation that explodes.

    Args:
        row: one line of the log, with ``time_fs``, ``total_eV`` and ``temperature_K``.
        temperature: K, the target.

    Raises:
        GeoMolError: a value is NaN or infinite, or the temperature is more than 20 times the target.
    """
    when = f"The simulation exploded at {row['time_fs'] / 1000:.4g} ps"
    advice = "Relax the structure first, take a shorter time step, or doubt the potential."
    if not np.isfinite([row["total_eV"], row["temperature_K"]]).all():
        raise GeoMolError(f"{when}: the energy is NaN or infinite. {advice}")
    limit = HOT * max(temperature, 100.0)
    if row["temperature_K"] > limit:
        raise GeoMolError(f"{when}: {row['temperature_K']:.0f} K is above {limit:.0f} K. {advice}")
