"""Relaxation of many structures at once: one call of the potential for all, each with an optimiser of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

from ..calculator import GeoMolCalculator
from ..checks import check_atoms, check_distances
from ..errors import ConfigError, GeoMolError
from ..graph import AtomGraph, collate, from_atoms

ATOMS_AT_ONCE = 1000


class Relaxed(NamedTuple):
    """How the relaxation of one structure ended.

    Attributes:
        place: of the structure among those that were given, from 0.
        atoms: a copy where it ended, with its energy (eV) and forces (eV/Å) unless there is an ``error``.
        steps: that it took.
        converged: whether the largest force fell below ``fmax``.
        error: why there are no energy and forces there.
    """

    place: int
    atoms: Atoms
    steps: int
    converged: bool
    error: Exception | None


def relax_together(
    structures: Sequence[Atoms], calculator: Calculator, *, fmax: float = 0.01, steps: int = 1000
) -> list[Atoms | None]:
    """Relax copies of structures as `ase_geomol.simulate.relax` does one by one, in a fraction of the time.

    Args:
        structures: molecules or crystals; cells stay as they are.
        calculator: any of ASE's. That of one potential computes many structures at once, unless its forces are direct.
        fmax: eV/Å; a structure is left alone when no force on it is larger.
        steps: of BFGS, at most this many; 0: only energies and forces.

    Returns:
        The structures with their energies (eV) and forces (eV/Å); None for one that the calculator refuses, as it comes
        or on its way.

    Raises:
        ConfigError: ``fmax`` or ``steps`` that make no sense.
    """
    ends = {end.place: end for end in relax_in_turn(structures, calculator, fmax=fmax, steps=steps)}
    return [None if ends[place].error else ends[place].atoms for place in range(len(structures))]


def relax_in_turn(
    structures: Iterable[Atoms],
    calculator: Calculator,
    *,
    fmax: float = 0.01,
    steps: int = 1000,
    deadline: float = np.inf,
    hessians: Iterable[np.ndarray] | None = None,
) -> Iterator[Relaxed]:
    """As `relax_together`, but give each structure as soon as it is ready, and take another one in its place.

    Args:
        structures: read as there is room.
        calculator: as of `relax_together`; likewise ``fmax`` and ``steps``.
        deadline: of ``time.monotonic``, when structures end where they are and no others are read.
        hessians: (3N, 3N) eV/Å² of each structure, positive definite, with which BFGS starts; default: ASE's guess.
    """
    if not fmax > 0 or steps < 0:
        raise ConfigError(f"fmax ({fmax} eV/Å) must be positive, and steps ({steps}) not negative.")
    many = _batched(calculator)
    waiting = enumerate(zip(structures, repeat(None) if hessians is None else hessians, strict=False))
    moving = list[_Moving]()
    room = ATOMS_AT_ONCE if many else 1
    while True:
        if time.monotonic() <= deadline:
            moving += _joining(waiting, room - sum(len(one.atoms) for one in moving))
        if not moving:
            return
        errors = _evaluate(moving, calculator, many)
        late = time.monotonic() > deadline
        active, moving = moving, []
        for one in active:
            error = errors.get(one.place)
            converged = error is None and _largest_force(one.atoms) < fmax
            if late or error or converged or one.steps == steps:
                yield Relaxed(one.place, one.atoms, one.steps, converged, error)
            else:
                one.optimiser.step()
                one.steps += 1
                moving.append(one)


@dataclass
class _Moving:
    """A structure on its way, and how far it is."""

    place: int
    atoms: Atoms
    optimiser: BFGS
    steps: int = 0


def _joining(waiting: Iterator[tuple[int, tuple[Atoms, np.ndarray | None]]], room: int) -> list[_Moving]:
    """The next structures, until there is no room for another atom."""
    joining = []
    while room > 0 and (following := next(waiting, None)) is not None:
        place, (atoms, hessian) = following
        moving = _Moving(place, copied := atoms.copy(), BFGS(copied, logfile=None))
        moving.optimiser.H0 = moving.optimiser.H0 if hessian is None else hessian
        joining.append(moving)
        room -= len(atoms)
    return joining


def _batched(calculator: Calculator) -> GeoMolCalculator | None:
    """The calculator, if it can compute many structures at once."""
    if isinstance(calculator, GeoMolCalculator) and len(calculator.checkpoints) == 1 and not calculator.direct_forces:
        return calculator
    return None


def _evaluate(moving: Sequence[_Moving], calculator: Calculator, many: GeoMolCalculator | None) -> dict[int, Exception]:
    """Give structures their energies and forces; return why some have none, by their places."""
    results, errors = _computed_together(moving, many) if many else _computed_alone(moving, calculator)
    for one in moving:
        if one.place in results:
            energy, forces = results[one.place]
            if np.isfinite(energy) and np.isfinite(forces).all():
                one.atoms.calc = SinglePointCalculator(one.atoms, energy=energy, forces=forces)
            else:
                errors[one.place] = GeoMolError("Energy or forces became NaN or infinite.")
    return errors


Results = dict[int, tuple[float, np.ndarray]]
"""Energies and forces by the structures' places."""


def _computed_together(moving: Sequence[_Moving], calculator: GeoMolCalculator) -> tuple[Results, dict[int, Exception]]:
    graphs: dict[int, AtomGraph] = {}
    errors: dict[int, Exception] = {}
    for one in moving:
        try:
            graphs[one.place] = _graph(one.atoms, calculator)
        except GeoMolError as error:
            errors[one.place] = error
    if not graphs:
        return {}, errors
    prediction = calculator.checkpoints[0].potential(collate(list(graphs.values())), forces=True)
    assert prediction.forces is not None
    ends = np.cumsum([graph.n_atoms for graph in graphs.values()])[:-1]
    forces = np.split(prediction.forces.cpu().numpy(), ends)
    return dict(zip(graphs, zip(prediction.energy.tolist(), forces, strict=True), strict=True)), errors


def _computed_alone(moving: Sequence[_Moving], calculator: Calculator) -> tuple[Results, dict[int, Exception]]:
    results: Results = {}
    errors: dict[int, Exception] = {}
    for one in moving:
        one.atoms.calc = calculator
        try:
            forces = one.atoms.get_forces(apply_constraint=False)
            results[one.place] = (float(one.atoms.get_potential_energy()), forces)
        except Exception as error:  # every calculator has its own
            errors[one.place] = error
    return results, errors


def _graph(atoms: Atoms, calculator: GeoMolCalculator) -> AtomGraph:
    check_atoms(atoms, calculator.elements, calculator.charges, calculator.spins)
    graph = from_atoms(atoms, calculator.cutoff, device=calculator.device)
    check_distances(graph)
    return graph


def _largest_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))
