"""Do molecules that the potential never saw survive relaxation and 1 ps of MD at 300 K?

Molecules come from the conformer benchmark of drug-like molecules in ``../shared/data`` (kept out of training, see
the labels' recipe); the smoke mode takes two SMILES instead. Each is relaxed (0.02 eV/Å), then moves for 1 ps in
steps of 0.5 fs at 300 K. A bond is broken when it gets longer than 1.5 times the sum of its covalent radii, looked
at every 10 steps; a run that ends with an error is counted beside. The peer is the theory that was learned: from each
minimum a relaxation with GFN2-xTB goes on.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from _frame import Row, answer
from _gfn2 import relaxed
from _measures import bonds_row, rmsd
from _unseen import DATA, SEED, unseen
from _work import dynamics, each, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import MDSettings, relax

MODEL = "geomformer-organic"
SMOKE = ("CCO", "c1ccccc1C(=O)O")
SETTINGS = {"data": DATA, "seed": SEED, "molecules": 50, "fmax eV/Å": 0.02, "temperature K": 300, "time ps": 1}
COLUMNS = {
    "atoms": sum,
    "relaxed": sum,
    "broken bonds": sum,
    "longest bond / radii": max,
    "mean K": np.mean,
    "RMSD to GFN2 Å": np.median,
    "energy above GFN2's minimum meV/atom": np.median,
}


def run(smoke: bool, model: str) -> list[Row]:
    """One row a molecule, then one for all."""
    duration = 10.0 if smoke else 1000.0 * SETTINGS["time ps"]
    with work_folder("stability", SETTINGS, smoke, model) as folder:
        chosen = islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"])
        molecules = {atoms.info["name"]: atoms for atoms in chosen}
        return table(each(molecules, partial(_row, model=model, duration=duration, folder=folder), folder), COLUMNS)


def _row(start: Atoms, model: str, duration: float, folder: Path) -> Row:
    atoms, fmax = start.copy(), SETTINGS["fmax eV/Å"]
    atoms.calc = GeoMolCalculator(model)
    minimum = relax(atoms, fmax=fmax, steps=600, optimizer="LBFGS")
    settings = MDSettings(temperature=SETTINGS["temperature K"], timestep=0.5, seed=SEED)
    result, frames = dynamics(minimum.atoms, settings, duration, folder / start.info["name"])
    gfn2 = relaxed(minimum.atoms, fmax, 600)
    return {
        "atoms": len(start),
        "relaxed": int(minimum.converged),
        **bonds_row(start, [minimum.atoms, *frames]),
        "mean K": float(np.mean(result.log["temperature_K"])),
        "RMSD to GFN2 Å": rmsd(gfn2.atoms, minimum.atoms),
        "energy above GFN2's minimum meV/atom": 1e3 * float(gfn2.energies[0] - gfn2.energies[-1]) / len(start),
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, settings=SETTINGS)
