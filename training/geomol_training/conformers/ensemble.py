"""Properties of a molecule's ensemble with GFN2-xTB, as torsional diffusion compares them (arXiv 2206.01729)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS

from ase_geomol.providers.molecules import Molecule
from ase_geomol.providers.refine import boltzmann_weights

from ..labelling.engine import GFN2, RejectedFrame

FMAX, STEPS = 0.03, 300
"""eV/Å and steps of a minimisation."""
MOST_SAMPLES = 32


def ensemble_properties(molecule: Molecule, positions: Iterable[np.ndarray]) -> dict[str, float] | None:
    """Boltzmann means at 298.15 K over the minima of GFN2-xTB nearest to ``positions`` (N, 3 each); None without any.

    Returns:
        ``energy`` and ``lowest_energy`` (kcal/mol), ``dipole`` (D), ``gap`` (kcal/mol).
    """
    engine, found = GFN2(charge=molecule.charge, multiplicity=molecule.multiplicity), []
    for start in positions:
        atoms = Atoms(molecule.numbers, start, calculator=engine)
        try:
            BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
            found.append(engine.properties_of(atoms))
        except RejectedFrame:
            continue
    if not found:
        return None
    energies, dipoles, gaps = np.array(found).T
    weights, kcal = boltzmann_weights(energies), units.kcal / units.mol
    return {
        "energy": float(weights @ energies / kcal),
        "lowest_energy": float(energies.min() / kcal),
        "dipole": float(weights @ dipoles),
        "gap": float(weights @ gaps / kcal),
    }
