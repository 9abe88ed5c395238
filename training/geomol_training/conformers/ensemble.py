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


class Minima(NamedTuple):
    """Where structures end.

    Attributes:
        positions: (M, N, 3) Å of the minima of GFN2-xTB.
        values: (M, 3): energy (eV), dipole (D), gap (eV).
        lost: structures that ended in none, by reason.
    """

    positions: np.ndarray
    values: np.ndarray
    lost: dict[str, int]

    @property
    def energies(self) -> np.ndarray:
        """(M,) eV."""
        return self.values[:, 0]

    @property
    def properties(self) -> dict[str, float] | None:
        """Boltzmann means at 298.15 K: ``energy`` and ``lowest_energy`` (kcal/mol), ``dipole`` (D), ``gap`` (kcal/mol).

        None where there is no minimum.
        """
        if not len(self.values):
            return None
        weights, kcal = boltzmann_weights(self.energies), units.kcal / units.mol
        energy, dipole, gap = (float(mean) for mean in weights @ self.values)
        lowest = float(self.energies.min())
        return {"energy": energy / kcal, "lowest_energy": lowest / kcal, "dipole": dipole, "gap": gap / kcal}


def nearest_minima(molecule: Molecule, positions: Iterable[np.ndarray]) -> Minima:
    """The minima of GFN2-xTB nearest to ``positions`` (N, 3 each).

    Minima with other bonds or another stereochemistry are not of this molecule, and left out.
    """
    engine = GFN2(charge=molecule.charge, multiplicity=molecule.multiplicity)
    found, values = [], []
    lost: Counter[str] = Counter()
    for start in positions:
        atoms = Atoms(molecule.numbers, start, calculator=engine)
        try:
            converged = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=STEPS)
            reason = refusal(molecule, atoms.positions, ("stereo", "bonds")) if converged else "no minimum reached"
            if not reason:
                values.append(engine.properties_of(atoms))
                found.append(atoms.positions.copy())
        except RejectedFrame as rejection:
            reason = rejection.reason
        if reason:
            lost[reason] += 1
    shape = (-1, len(molecule), 3)
    return Minima(np.array(found).reshape(shape), np.array(values, dtype=float).reshape(-1, 3), dict(lost))
