"""Relaxation of positions, and of the cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from ..errors import ConfigError, GeoMolError, InputError
from .files import GrowingFile, frame_text

OPTIMIZERS = {"BFGS": BFGS, "LBFGS": LBFGS, "FIRE": FIRE}
MOST_FOR_BFGS = 200
OnStep = Callable[[int, float, float], object]
"""Called with step, energy (eV) and largest force (eV/Å)."""


@dataclass(frozen=True)
class RelaxResult:
    """What a relaxation reached.

    Attributes:
        atoms: the last structure, with its calculator.
        converged: whether the largest force fell below ``fmax``.
        energies: (steps + 1,) eV.
        fmax: (steps + 1,) eV/Å, the largest force on an atom (with ``cell``, also of the cell's gradient).
        optimizer: which one took them.
    """

    atoms: Atoms
    converged: bool
    energies: np.ndarray
    fmax: np.ndarray
    optimizer: str

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.energies) - 1


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    steps: int = 1000,
    optimizer: Literal["BFGS", "LBFGS", "FIRE"] | None = None,
    cell: bool = False,
    trajectory: Path | None = None,
    on_step: OnStep | None = None,
) -> RelaxResult:
    """Relax a copy of ``atoms``, with any ASE calculator and ASE's optimisers.

    Args:
        atoms: the structure, with a calculator; constraints are respected.
        fmax: eV/Å; stop when no force is larger.
        steps: at most this many.
        optimizer: which of ASE's. None: BFGS, of more than `MOST_FOR_BFGS` atoms LBFGS: each step of BFGS diagonalises
            a matrix of 3N rows.
        cell: relax the cell too (`FrechetCellFilter`); needs a structure periodic in three directions.
        trajectory: extended-XYZ file that receives every step.
        on_step: called after every step.

    Raises:
        ConfigError: unknown optimiser, or ``fmax`` or ``steps`` not positive.
        InputError: ``cell`` for a structure that is not periodic in three directions.
        OutputError: the trajectory cannot be written.
        GeoMolError: the calculator refuses the structure; energy or forces became NaN or infinite.
    """
    optimizer = optimizer or ("BFGS" if len(atoms) <= MOST_FOR_BFGS else "LBFGS")
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer is {optimizer!r}; it can be {', '.join(OPTIMIZERS)}.")
    see_goal(fmax, steps)
    if cell and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError("Only a structure with a cell, periodic in three directions, can relax its cell.")
    moving = atoms.copy()
    moving.calc = atoms.calc
    target = FrechetCellFilter(moving) if cell else moving
    moving.get_forces()  # a structure that the calculator refuses leaves no file
    file = GrowingFile(trajectory) if trajectory else None
    energies, largest = [], []
    converged = False
    try:
        for state in OPTIMIZERS[optimizer](target, logfile=None).irun(fmax=fmax, steps=steps):
            converged = bool(state)
            energies.append(moving.get_potential_energy())
            largest.append(np.linalg.norm(target.get_forces(), axis=1).max(initial=0.0))
            _check(energies[-1], largest[-1], len(energies) - 1)
            if file is not None:
                file.write(frame_text(moving, {"step": len(energies) - 1}))
            if on_step is not None:
                on_step(len(energies) - 1, energies[-1], largest[-1])
    finally:
        if file is not None:
            file.close()
    return RelaxResult(moving, converged, np.array(energies), np.array(largest), optimizer)


def see_goal(fmax: float, steps: int = 1) -> None:
    """Refuse settings of a relaxation that are not positive; raises :class:`ConfigError`."""
    if not fmax > 0 or steps < 1:
        raise ConfigError(f"fmax ({fmax}) and steps ({steps}) must be positive.")


def _check(energy: float, force: float, step: int) -> None:
    if not np.isfinite([energy, force]).all():
        raise GeoMolError(
            f"Energy or forces became NaN or infinite at step {step}: the structure has left what the potential knows."
        )
