"""How far are relaxed structures of unseen molecules from the minimum of GFN2-xTB, the theory that was learned?

Start: 200 neutral drug-like molecules of the conformer benchmark, the first conformer of each as published (optimised
by DFT). Our potential relaxes it, and is compared with two minima of GFN2-xTB: that of a relaxation which goes on from
our minimum, almost always of the same conformer, and that of a relaxation from the same start. Where the second pair is
far apart and the first is not, the two went to different conformers. RMSD: over all atoms, each of which is told apart,
after the best superposition. A bond is broken that is longer than 1.5 sums of its covalent radii in our minimum.
Goal: median RMSD of at most 0.1 Å, no broken bond.
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
from _work import computed, each, frames_of, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import relax

MODEL = "geomformer-organic"
SMOKE = ("c1ccccc1C(=O)O",)
SETTINGS = {
    "data": DATA,
    "seed": SEED,
    "molecules": 200,
    "fmax eV/Å": 0.01,
    "most steps": 1000,
    "another minimum beyond Å": 0.25,
    **BONDS,
}
FROM_OURS, SAME_START, BETWEEN = "RMSD to GFN2 from ours Å", "RMSD to GFN2 from the same start Å", "RMSD of both GFN2 Å"
ANOTHER = "another GFN2 minimum"
COLUMNS = {
    "atoms": sum,
    "relaxed": sum,
    "steps": np.median,
    "GFN2 relaxed, both": sum,
    FROM_OURS: np.median,
    SAME_START: np.median,
    BETWEEN: np.median,
    ANOTHER: sum,
    "energy above GFN2's minimum meV/atom": np.median,
    "longest bond / radii": max,
    "broken bonds": sum,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then medians, sums or the largest of all."""
    fmax = 0.1 if smoke else SETTINGS["fmax eV/Å"]
    with (
        work_folder("relaxation", SETTINGS, smoke) as reference,
        work_folder("relaxation", SETTINGS, smoke, model) as folder,
    ):
        molecules = {atoms.info["name"]: atoms for atoms in _chosen(smoke)}
        rows = each(molecules, partial(_row, model=model, fmax=fmax, reference=reference), folder)
    shown = table(rows, COLUMNS)
    last = shown[-1]
    summary = {
        "median RMSD to the GFN2 minimum reached from ours in Å (goal: at most 0.1)": last[FROM_OURS],
        "median RMSD between the minima that both reach from the same start in Å (goal: at most 0.1)": last[SAME_START],
        f"molecules whose GFN2 minima are more than {SETTINGS['another minimum beyond Å']} Å apart": last[ANOTHER],
        "broken bonds (goal: 0)": last["broken bonds"],
        "molecules that ended with an error (goal: 0)": last["error"],
    }
    return Answer(shown, summary, computed(rows))


def _chosen(smoke: bool) -> list[Atoms]:
    return list(islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"]))


def _row(start: Atoms, model: str, fmax: float, reference: Path) -> Row:
    atoms = start.copy()
    atoms.calc = GeoMolCalculator(model)
    ours = relax(atoms, fmax=fmax, steps=SETTINGS["most steps"], optimizer="LBFGS")
    gfn2 = relaxed(ours.atoms, fmax, SETTINGS["most steps"])
    (other,) = frames_of(reference / f"{start.info['name']}.extxyz", partial(_gfn2_alone, start, fmax))
    between = rmsd(other, gfn2.atoms)
    return {
        "atoms": len(start),
        "relaxed": int(ours.converged),
        "steps": ours.steps,
        "GFN2 relaxed, both": int(gfn2.converged and other.info["relaxed"]),
        FROM_OURS: rmsd(gfn2.atoms, ours.atoms),
        SAME_START: rmsd(other, ours.atoms),
        BETWEEN: between,
        ANOTHER: int(between > SETTINGS["another minimum beyond Å"]),
        "energy above GFN2's minimum meV/atom": 1e3 * float(gfn2.energies[0] - gfn2.energies[-1]) / len(start),
        **bonds_row(start, [ours.atoms]),
    }


def _gfn2_alone(start: Atoms, fmax: float) -> list[Atoms]:
    """Where GFN2-xTB goes from the published start, whatever weights are measured."""
    found = relaxed(start, fmax, SETTINGS["most steps"])
    return [Atoms(start.numbers, found.atoms.positions, info={"relaxed": found.converged})]


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, on_card=True, settings=SETTINGS)
