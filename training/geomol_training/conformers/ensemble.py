"""Properties of a molecule's ensemble with GFN2-xTB, as torsional diffusion compares them (arXiv 2206.01729)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS

from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.refine import boltzmann_weights, refusal

from ..labelling.engine import GFN2, RejectedFrame

FMAX, STEPS = 0.03, 300
"""eV/Å and steps of a minimisation."""
MOST_SAMPLES = 32


class Ensemble(NamedTuple):
    """What an ensemble is like.

    Attributes:
        properties: ``energy`` and ``lowest_energy`` (kcal/mol), ``dipole`` (D), ``gap`` (kcal/mol); None where no
            structure ended in a minimum.
        lost: structures that did not, by reason.
    """

    properties: dict[str, float] | None
    lost: dict[str, int]


def ensemble_properties(molecule: Molecule, positions: Iterable[np.ndarray]) -> Ensemble:
    """Boltzmann means at 298.15 K over the minima of GFN2-xTB nearest to ``positions`` (N, 3 each).

    Minima with other bonds or another stereochemistry are not of this molecule, and left out.
    """
    engine, found = GFN2(charge=molecule.charge, multiplicity=molecule.multiplicity), []
    lost: Counter[str] = Counter()
    for start in positions:
        atoms = Atoms(molecule.numbers, start, calculator=engine)
        try:
            converged = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
            reason = refusal(molecule, atoms.positions, ("stereo", "bonds")) if converged else "no minimum reached"
            if not reason:
                found.append(engine.properties_of(atoms))
        except RejectedFrame as rejection:
            reason = rejection.reason
        if reason:
            lost[reason] += 1
    return Ensemble(_means(np.array(found)) if found else None, dict(lost))


def _means(found: np.ndarray) -> dict[str, float]:
    """Of energies, dipoles and gaps (M, 3) of minima."""
    energies, dipoles, gaps = found.T
    weights, kcal = boltzmann_weights(energies), units.kcal / units.mol
    return {
        "energy": float(weights @ energies / kcal),
        "lowest_energy": float(energies.min() / kcal),
        "dipole": float(weights @ dipoles),
        "gap": float(weights @ gaps / kcal),
    }
