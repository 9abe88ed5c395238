"""Minimum-energy paths between two structures, by the nudged elastic band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from ase.mep import NEB
from ase.optimize import FIRE

from ..errors import ConfigError, InputError
from .relax import see_goal


@dataclass(frozen=True)
class MinimumEnergyPath:
    """Images from the first structure to the last.

    Attributes:
        images: all of them, with their energies and forces.
        converged: whether no force across the path is larger than ``fmax``.
        steps: taken, of both stages.
        energies: (I,) eV, relative to the first image.
        distances: (I,) Å along the path.
        end_force: eV/Å, the largest at the ends: where it is not small, they are no minima.
    """

    images: list[Atoms]
    converged: bool
    steps: int
    energies: np.ndarray
    distances: np.ndarray
    end_force: float

    @property
    def barrier(self) -> float:
        """eV, from the first structure to the highest image."""
        return float(self.energies.max())

    @property
    def highest(self) -> int:
        """Which image is the highest."""
        return int(self.energies.argmax())


def minimum_energy_path(
    first: Atoms,
    last: Atoms,
    *,
    images: int = 7,
    fmax: float = 0.05,
    steps: int = 500,
    climb: bool = True,
    on_step: Callable[[int, float, list[Atoms]], object] | None = None,
) -> MinimumEnergyPath:
    """Interpolate (IDPP), relax the band, then let its highest image climb to the saddle point.

    Args:
        first: a relaxed structure with a calculator, which all images share.
        last: another minimum, with the same atoms in the same order and the same cell.
        images: how many lie between the ends.
        fmax: eV/Å.
        steps: at most so many, in each stage.
        climb: find the saddle point.
        on_step: called with the number of steps taken in both stages, the barrier (eV) and the images as they are, at
            the start and after each.

    Raises:
        ConfigError: no image, or ``fmax`` or ``steps`` not positive.
        InputError: the two structures differ in atoms, cell or fixed atoms, or in nothing.
    """
    see_images(images, fmax, steps)
    see_ends(first, last)
    band = [first.copy() for _ in range(images + 1)] + [last.copy()]
    for image in band:
        image.calc = first.calc
    for end in (band[0], band[-1]):  # they do not move: computed once
        end.calc = SinglePointCalculator(end, energy=end.get_potential_energy(), forces=end.get_forces())
    _interpolate(band)
    taken, converged = 0, False
    for stage in (False, True) if climb else (False,):
        neb = NEB(band, climb=stage, method="improvedtangent", allow_shared_calculator=True)
        optimizer = FIRE(neb, logfile=None)  # pyright: ignore[reportArgumentType]  (ASE's types are too narrow)
        for state in optimizer.irun(fmax=fmax if stage == climb else 4 * fmax, steps=steps):
            converged = bool(state)
            if on_step:
                assert neb.energies is not None  # set by the forces
                on_step(taken + optimizer.nsteps, float(neb.energies.max() - neb.energies[0]), band)
        taken += optimizer.nsteps
    for image in band[1:-1]:
        image.calc = SinglePointCalculator(image, energy=image.get_potential_energy(), forces=image.get_forces())
    energies = np.array([image.get_potential_energy() for image in band])
    end_force = max(float(np.linalg.norm(end.get_forces(), axis=1).max()) for end in (band[0], band[-1]))
    moves = [np.linalg.norm(_minimum(b, a)) for a, b in pairwise(band)]
    distances = np.concatenate([[0.0], np.cumsum(moves)])
    return MinimumEnergyPath(band, converged, taken, energies - energies[0], distances, end_force)


def see_images(images: int, fmax: float, steps: int) -> None:
    """Refuse settings of `minimum_energy_path`; raises :class:`ConfigError`."""
    if images < 1:
        raise ConfigError(f"images is {images}; there must be at least one between the ends.")
    see_goal(fmax, steps)


def see_ends(first: Atoms, last: Atoms, apart: float = 1e-4) -> None:
    """Refuse two structures between which there is no path: other ones, or the same but for moves below ``apart`` (Å).

    Raises:
        InputError: as `minimum_energy_path`.
    """
    if not (np.array_equal(first.numbers, last.numbers) and np.array_equal(first.pbc, last.pbc)):
        raise InputError("Both ends of a path need the same atoms in the same order, and the same periodicity.")
    if not np.allclose(first.cell, last.cell, atol=1e-6):
        raise InputError("Both ends of a path need the same cell.")
    moves = _minimum(last, first)
    if np.linalg.norm(moves - moves.mean(0), axis=1).max() <= apart:  # a shift of all atoms is no move
        raise InputError(f"Both ends of the path are the same structure: no atom moves by more than {apart:g} Å.")
    fixed = sorted({index for held in first.constraints if isinstance(held, FixAtoms) for index in held.index.tolist()})
    if not np.allclose(moves[fixed], 0, atol=1e-6):
        raise InputError("Atoms that are fixed in the first structure stand elsewhere in the last one.")


def _interpolate(band: list[Atoms]) -> None:
    neb = NEB(band, method="improvedtangent", allow_shared_calculator=True)
    neb.interpolate(method="idpp", mic=bool(band[0].pbc.any()), apply_constraint=True)


def _minimum(after: Atoms, before: Atoms) -> np.ndarray:
    moves = after.positions - before.positions
    if not before.pbc.any():
        return moves
    return find_mic(moves, before.cell, before.pbc)[0]  # pyright: ignore[reportArgumentType]
