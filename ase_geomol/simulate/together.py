"""Relaxation of many structures at once: one call of the potential for all, each with an optimiser of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

from ..calculator import GeoMolCalculator
from ..checks import check_atoms, check_distances
from ..errors import ConfigError, GeoMolError
from ..graph import AtomGraph, collate, from_atoms

ATOMS_AT_ONCE = 1000


def relax_together(
    structures: Sequence[Atoms], calculator: GeoMolCalculator, *, fmax: float = 0.01, steps: int = 1000
) -> list[Atoms | None]:
    """Relax copies of structures as `ase_geomol.simulate.relax` does one by one, in a fraction of the time.

    Args:
        structures: molecules or crystals; cells stay as they are.
        calculator: of one potential, neither of a committee nor with direct forces.
        fmax: eV/Å; a structure is left alone when no force on it is larger.
        steps: of BFGS, at most this many; 0: only energies and forces.

    Returns:
        The structures with their energies (eV) and forces (eV/Å); None for one that the potential refuses, as it comes
        or on its way.

    Raises:
        ConfigError: such a calculator, or ``fmax`` or ``steps`` that make no sense.
    """
    if len(calculator.checkpoints) > 1 or calculator.direct_forces:
        raise ConfigError("Structures are relaxed together by the gradients of one potential, not of a committee.")
    if not fmax > 0 or steps < 0:
        raise ConfigError(f"fmax ({fmax} eV/Å) must be positive, and steps ({steps}) not negative.")
    moving = [atoms.copy() for atoms in structures]
    optimisers = [BFGS(atoms, logfile=None) for atoms in moving]
    active, refused = list(range(len(moving))), set()
    for step in range(steps + 1):
        refused |= _evaluate(moving, active, calculator)
        active = [place for place in active if place not in refused and _largest_force(moving[place]) >= fmax]
        if step < steps:
            for place in active:
                optimisers[place].step()
    return [None if place in refused else atoms for place, atoms in enumerate(moving)]


def _evaluate(moving: Sequence[Atoms], active: Sequence[int], calculator: GeoMolCalculator) -> set[int]:
    """Give the structures ``active`` their energies and forces; return those that have none."""
    graphs: dict[int, AtomGraph] = {}
    for place in active:
        try:
            graphs[place] = _graph(moving[place], calculator)
        except GeoMolError:
            continue
    done = set()
    for places in _portions(list(graphs), moving):
        batch = collate([graphs[place] for place in places])
        prediction = calculator.checkpoints[0].potential(batch, forces=True)
        assert prediction.forces is not None
        forces = np.split(prediction.forces.cpu().numpy(), np.cumsum([len(moving[place]) for place in places])[:-1])
        for place, energy, force in zip(places, prediction.energy.tolist(), forces, strict=True):
            if np.isfinite(energy) and np.isfinite(force).all():
                moving[place].calc = SinglePointCalculator(moving[place], energy=energy, forces=force)
                done.add(place)
    return set(active) - done


def _graph(atoms: Atoms, calculator: GeoMolCalculator) -> AtomGraph:
    check_atoms(atoms, calculator.elements, calculator.charges, calculator.spins)
    graph = from_atoms(atoms, calculator.cutoff, device=calculator.device)
    check_distances(graph)
    return graph


def _portions(places: Sequence[int], moving: Sequence[Atoms]) -> list[list[int]]:
    """The places in their order, cut where the next structure would make it too many atoms."""
    portions: list[list[int]] = []
    atoms = 0
    for place in places:
        if not portions or atoms + len(moving[place]) > ATOMS_AT_ONCE:
            portions.append([])
            atoms = 0
        portions[-1].append(place)
        atoms += len(moving[place])
    return portions


def _largest_force(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max(initial=0.0))
