"""Do molecules that the potential never saw survive relaxation and MD at 300 K?

Fifty neutral drug-like molecules of the conformer benchmark (see `_unseen`) are relaxed with our potential, then move
for 1.5 ps in steps of 0.5 fs under a Langevin thermostat of 300 K. A minimum with velocities of 300 K has but half of
the energy of that temperature: the first 0.5 ps, five times the thermostat's 100 fs, warm it up, and "mean K" is of the
1 ps that follows. A bond is broken when it gets longer than 1.5 times the sum of its covalent radii, looked at every 10
steps, also of the warm-up; a run that ends with an error is counted beside. The peer is the theory that was learned:
from each minimum a relaxation with GFN2-xTB goes on.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import relaxed
from _measures import BONDS, bonds_row, rmsd
from _unseen import DATA, SEED, unseen
from _work import computed, dynamics, each, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import MDSettings, relax

MODEL = "geomformer-organic"
SMOKE = ("CCO", "c1ccccc1C(=O)O")
SETTINGS = {
    "data": DATA,
    "seed": SEED,
    "molecules": 50,
    "fmax eV/Å": 0.02,
    "most steps": 600,
    "temperature K": 300,
    "warm-up ps": 0.5,
    "time ps": 1,
    "time step fs": 0.5,
    **BONDS,
}
COLUMNS = {
    "atoms": sum,
    "relaxed": sum,
    "broken bonds": sum,
    "longest bond / radii": max,
    "mean K": np.mean,
    "RMSD to GFN2 Å": np.median,
    "energy above GFN2's minimum meV/atom": np.median,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then one for all."""
    scale = 0.01 if smoke else 1.0
    with work_folder("stability", SETTINGS, smoke, model) as folder:
        chosen = islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"])
        molecules = {atoms.info["name"]: atoms for atoms in chosen}
        rows = each(molecules, partial(_row, model=model, scale=scale, folder=folder), folder)
    shown = table(rows, COLUMNS)
    summary = {
        "broken bonds (goal: 0)": shown[-1]["broken bonds"],
        "molecules that ended with an error (goal: 0)": shown[-1]["error"],
        "mean temperature in K (meant: 300)": shown[-1]["mean K"],
    }
    return Answer(shown, summary, computed(rows))


def _row(start: Atoms, model: str, scale: float, folder: Path) -> Row:
    atoms, fmax, steps = start.copy(), SETTINGS["fmax eV/Å"], SETTINGS["most steps"]
    warm_up, time = (1e3 * scale * SETTINGS[name] for name in ("warm-up ps", "time ps"))
    atoms.calc = GeoMolCalculator(model)
    minimum = relax(atoms, fmax=fmax, steps=steps, optimizer="LBFGS")
    settings = MDSettings(temperature=SETTINGS["temperature K"], timestep=SETTINGS["time step fs"], seed=SEED)
    result, frames = dynamics(minimum.atoms, settings, warm_up + time, folder / start.info["name"])
    gfn2 = relaxed(minimum.atoms, fmax, steps)
    return {
        "atoms": len(start),
        "relaxed": int(minimum.converged),
        **bonds_row(start, [minimum.atoms, *frames]),
        "mean K": float(np.mean(result.log["temperature_K"][result.log["time_fs"] > warm_up])),
        "RMSD to GFN2 Å": rmsd(gfn2.atoms, minimum.atoms),
        "energy above GFN2's minimum meV/atom": 1e3 * float(gfn2.energies[0] - gfn2.energies[-1]) / len(start),
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, settings=SETTINGS)
