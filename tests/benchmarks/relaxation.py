"""How far are relaxed structures of unseen molecules from the minimum of GFN2-xTB, the theory that was learned?

Start: 200 neutral drug-like molecules of the conformer benchmark, the first conformer of each as published (optimised
by DFT). Our potential relaxes it; from our minimum a relaxation with GFN2-xTB goes on, so that both minima belong to
the same conformer. RMSD: over all atoms, after the best superposition. A bond is broken that is longer than 1.5 sums
of its covalent radii in our minimum. Goal: median RMSD of at most 0.1 Å, no broken bond.
"""

from __future__ import annotations

from functools import partial
from itertools import islice

import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import relaxed
from _measures import bonds_row, rmsd
from _unseen import DATA, SEED, unseen
from _work import each, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import relax

MODEL = "geomformer-organic"
SMOKE = ("c1ccccc1C(=O)O",)
SETTINGS = {"data": DATA, "seed": SEED, "molecules": 200, "fmax eV/Å": 0.01, "most steps": 1000}
COLUMNS = {
    "atoms": sum,
    "relaxed": sum,
    "steps": np.median,
    "GFN2 relaxed": sum,
    "RMSD to GFN2 Å": np.median,
    "energy above GFN2's minimum meV/atom": np.median,
    "longest bond / radii": max,
    "broken bonds": sum,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then medians, sums or the largest of all."""
    fmax = 0.1 if smoke else SETTINGS["fmax eV/Å"]
    with work_folder("relaxation", SETTINGS, smoke, model) as folder:
        molecules = {atoms.info["name"]: atoms for atoms in _chosen(smoke)}
        rows = table(each(molecules, partial(_row, model=model, fmax=fmax), folder), COLUMNS)
    summary = {
        "median RMSD to GFN2-xTB's minimum in Å (goal: at most 0.1)": rows[-1]["RMSD to GFN2 Å"],
        "broken bonds (goal: 0)": rows[-1]["broken bonds"],
        "molecules that ended with an error (goal: 0)": rows[-1]["error"],
    }
    return Answer(rows, summary)


def _chosen(smoke: bool) -> list[Atoms]:
    return list(islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"]))


def _row(start: Atoms, model: str, fmax: float) -> Row:
    atoms = start.copy()
    atoms.calc = GeoMolCalculator(model)
    ours = relax(atoms, fmax=fmax, steps=SETTINGS["most steps"], optimizer="LBFGS")
    gfn2 = relaxed(ours.atoms, fmax, SETTINGS["most steps"])
    return {
        "atoms": len(start),
        "relaxed": int(ours.converged),
        "steps": ours.steps,
        "GFN2 relaxed": int(gfn2.converged),
        "RMSD to GFN2 Å": rmsd(gfn2.atoms, ours.atoms),
        "energy above GFN2's minimum meV/atom": 1e3 * float(gfn2.energies[0] - gfn2.energies[-1]) / len(start),
        **bonds_row(start, [ours.atoms]),
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, settings=SETTINGS)
