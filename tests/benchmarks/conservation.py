"""Does molecular dynamics of unseen molecules conserve energy, and do the molecules survive it?

Ten neutral drug-like molecules of the conformer benchmark are relaxed with our potential (0.02 eV/Å). Then they move
for 10 ps at constant energy (velocity Verlet, 0.5 fs) in the precision that is the calculator's default, from
velocities of the Maxwell-Boltzmann distribution, scaled to 600 K: half of that turns into potential energy, so that
the run is at about 300 K. Drift: slope of the straight line through the total energy, recorded every 5 fs. A bond is
broken that is ever longer than 1.5 sums of its covalent radii. Goal: no drift beyond 0.1 meV/atom/ps, up or down, no
broken bond.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _measures import BONDS, bonds_row, drift
from _unseen import DATA, SEED, unseen
from _work import computed, dynamics, each, table, work_folder
from ase import Atoms

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import MDSettings, relax

MODEL = "geomformer-organic"
SMOKE = ("CCO",)
SETTINGS = {
    "data": DATA,
    "seed": SEED,
    "molecules": 10,
    "fmax eV/Å": 0.02,
    "time ps": 10,
    "time step fs": 0.5,
    "first K": 600,
    **BONDS,
}
DRIFT, DEVIATION = "drift meV/atom/ps", "largest deviation from the line meV/atom"
COLUMNS = {
    "atoms": sum,
    "mean K": np.mean,
    DRIFT: lambda drifts: max(drifts, key=abs),
    DEVIATION: max,
    "longest bond / radii": max,
    "broken bonds": sum,
}


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule, then the worst of all."""
    duration = 20.0 if smoke else 1000.0 * SETTINGS["time ps"]
    with work_folder("conservation", SETTINGS, smoke, model) as folder:
        chosen = islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"])
        molecules = {atoms.info["name"]: atoms for atoms in chosen}
        rows = each(molecules, partial(_row, model=model, duration=duration, folder=folder), folder)
    shown = table(rows, COLUMNS)
    summary = {
        "largest drift, up or down, in meV/atom/ps (goal: at most 0.1)": largest_drift(rows),
        "broken bonds (goal: 0)": shown[-1]["broken bonds"],
        "molecules that ended with an error (goal: 0)": shown[-1]["error"],
    }
    return Answer(shown, summary, computed(rows))


def largest_drift(rows: list[Row]) -> float | None:
    """Size of the largest drift; None where no run came to its end."""
    return max((abs(row[DRIFT]) for row in rows if DRIFT in row), default=None)


def _row(start: Atoms, model: str, duration: float, folder: Path) -> Row:
    atoms = start.copy()
    atoms.calc = GeoMolCalculator(model)
    minimum = relax(atoms, fmax=SETTINGS["fmax eV/Å"], optimizer="LBFGS")
    settings = MDSettings("nve", SETTINGS["first K"], SETTINGS["time step fs"], seed=SEED)
    row, frames = run_and_drift(minimum.atoms, settings, duration, folder / start.info["name"])
    return {**row, **bonds_row(minimum.atoms, frames)}


def run_and_drift(start: Atoms, settings: MDSettings, duration: float, folder: Path) -> tuple[Row, list[Atoms]]:
    """How well a run of ``duration`` (fs) kept its energy, and its frames."""
    result, frames = dynamics(start, settings, duration, folder)
    slope, deviation = drift(result.log["time_fs"] / 1e3, 1e3 * result.log["total_eV"] / len(start))
    row = {"atoms": len(start), "mean K": float(np.mean(result.log["temperature_K"]))}
    return row | {DRIFT: slope, DEVIATION: deviation}, frames


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, settings=SETTINGS)
