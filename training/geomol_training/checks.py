"""What makes a row of training data unusable, and what happens then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from scipy.spatial import KDTree

from ase_geomol.checks import COINCIDENT, check_atoms
from ase_geomol.errors import DataError, InputError
from ase_geomol.neighbors import neighbor_pairs

from .frames import Row

ELEMENTS = range(1, 119)
NO_ENERGY = "no energy"
NAME_ENERGY = "If it has another name, give that: data.energy_key (of a property target.name) in a recipe, --energy-key"


@dataclass(frozen=True)
class Limits:
    """What a row may contain.

    Attributes:
        elements: atomic numbers; None: all.
        max_force: eV/Å; None: any.
        charges: total charges (e); None: any.
        spins: multiplicities; empty: any.
        periodic: whether a structure may repeat itself.
        labelled: whether it must have an energy.
    """

    elements: tuple[int, ...] | None = None
    max_force: float | None = None
    charges: tuple[int, ...] | None = None
    spins: tuple[int, ...] = ()
    periodic: bool = True
    labelled: bool = True


@dataclass
class Inspector:
    """Lets good rows through; a bad one is counted under its reason, or raises.

    Attributes:
        limits: what is allowed.
        bad_rows: "raise" or "skip".
        skipped: how often each reason was met.
    """

    limits: Limits
    bad_rows: Literal["raise", "skip"] = "raise"
    skipped: Counter[str] = field(default_factory=Counter)

    def passed(self, rows: Iterable[Row], file: object, first: int = 0) -> Iterator[Row]:
        """Yield the good rows of ``file``, from its row ``first`` on; raises :class:`DataError` at a bad one if asked
        to.
        """
        for index, row in enumerate(rows, start=first):
            found = problem(row, self.limits)
            if found is None:
                yield row
                continue
            reason, detail = found
            if self.bad_rows == "raise":
                mend = NAME_ENERGY if reason == NO_ENERGY else "Correct it"
                raise DataError(
                    f"{file}, row {index}: {reason} ({detail}). {mend}, or leave such rows out with bad_rows: skip "
                    "in the recipe of a training, --skip-bad in an evaluation."
                )
            self.skipped[reason] += 1


def problem(row: Row, limits: Limits) -> tuple[str, str] | None:
    """Return what is wrong with a row as (reason, detail), or None."""
    if row.damage:
        return "damaged row", row.damage
    if len(row.numbers) == 0:
        return "no atoms", "the structure is empty"
    if row.energy is None and limits.labelled:
        return NO_ENERGY, row.sought or "no label to learn"
    return (
        _wrong_shape(row)
        or _not_finite(row)
        or _unknown_element(row, limits)
        or _bad_cell(row, limits)
        or _foreign_state(row, limits)
        or _too_close(row)
        or _too_strong(row, limits)
    )


def _wrong_shape(row: Row) -> tuple[str, str] | None:
    n = len(row.numbers)
    shapes: dict[str, tuple[int, ...]] = {"numbers": (n,), "cell": (3, 3), "pbc": (3,), "stress": (3, 3)}
    shapes |= dict.fromkeys(("positions", "forces", "relaxed"), (n, 3)) | dict.fromkeys(
        ("energies", "tags", "fixed"), (n,)
    )
    for name, shape in shapes.items():
        values = getattr(row, name)
        if values is not None and values.shape != shape:
            return "wrong shape", f"{name} {values.shape}, expected {shape}"
    return None


def _not_finite(row: Row) -> tuple[str, str] | None:
    """The cell is looked at with the periodicity, which it may lack."""
    if row.energy is not None and not np.isfinite(row.energy):
        return "energy is not finite", f"{row.energy}"
    for name in ("positions", "forces", "stress", "energies", "tags", "fixed", "relaxed"):
        values = getattr(row, name)
        if values is not None and not np.isfinite(values).all():
            return f"{name} not finite", f"first at index {int(np.argwhere(~np.isfinite(values))[0, 0])}"
    return None


def _unknown_element(row: Row, limits: Limits) -> tuple[str, str] | None:
    known = limits.elements or ELEMENTS
    for index, number in enumerate(row.numbers):
        if number not in known:
            return "unknown element", f"atom {index} has atomic number {number}"
    return None


def _bad_cell(row: Row, limits: Limits) -> tuple[str, str] | None:
    if row.pbc.any() and not limits.periodic:
        return "periodic", "a network without a cutoff, which connects all atoms, knows no periodic images"
    if not row.pbc.any() and np.isfinite(row.cell).all():
        return None
    try:
        check_atoms(Atoms(row.numbers, row.positions, cell=row.cell, pbc=row.pbc), ELEMENTS, (0,), ())
    except InputError as error:
        return "unusable cell", str(error).rstrip(".")
    return None


def _foreign_state(row: Row, limits: Limits) -> tuple[str, str] | None:
    """Charge and spin as a calculator would see them; a spin of 1 may be one that the file does not tell."""
    if limits.charges is None:
        return None
    state = {"charge": row.charge} if row.spin == 1 else {"charge": row.charge, "spin": row.spin}
    try:
        check_atoms(
            Atoms(row.numbers, row.positions, cell=row.cell, pbc=row.pbc, info=state),
            ELEMENTS,
            limits.charges,
            limits.spins,
        )
    except InputError as error:
        return "unknown charge or spin", str(error).rstrip(".")
    return None


SEARCHED = 1.0
"""Å; a list for a shorter distance divides a large cell into millions of boxes."""


def _too_close(row: Row) -> tuple[str, str] | None:
    if len(row.numbers) == 1:
        return None
    if row.pbc.any():
        positions, cell, pbc = (torch.from_numpy(np.array(a)) for a in (row.positions, row.cell, row.pbc))
        near = neighbor_pairs(positions, cell, pbc, SEARCHED).within(COINCIDENT, positions, cell)
        pairs = near.edge_index.T.numpy()
    else:
        pairs = KDTree(row.positions).query_pairs(COINCIDENT, output_type="ndarray")
    if not len(pairs):
        return None
    return "atoms on top of each other", f"atoms {pairs[0][0]} and {pairs[0][1]}"


def _too_strong(row: Row, limits: Limits) -> tuple[str, str] | None:
    if limits.max_force is None or row.forces is None:
        return None
    strongest = float(np.linalg.norm(row.forces, axis=1).max())
    if strongest <= limits.max_force:
        return None
    return "force above the limit", f"{strongest:.1f} eV/Å, the limit is {limits.max_force:g}"


def describe_skipped(skipped: Counter[str]) -> str:
    """One phrase such as ``3 rows left out: 2 no energy, 1 unknown element``."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
    return f"{skipped.total()} rows left out" + (f": {reasons}" if reasons else "")
