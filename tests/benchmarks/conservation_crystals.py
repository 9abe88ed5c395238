"""Does molecular dynamics of crystals conserve energy?

Cubic crystals of 32 or 64 atoms, relaxed with their cells by our potential (0.02 eV/Å), move for 10 ps at constant
energy (velocity Verlet, 2 fs) in the precision that is the calculator's default, from velocities of the
Maxwell-Boltzmann distribution, scaled to 600 K: half of that turns into potential energy, so that the run is at about
300 K. Drift: slope of the straight line through the total energy, recorded every 20 fs. "Molten": an atom ends farther
from where it began than a third of the distance to its nearest neighbour. Goal: no drift beyond 0.1 meV/atom/ps.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _work import computed, each, table, work_folder
from ase import Atoms
from ase.build import bulk
from conservation import DEVIATION, DRIFT, largest_drift, run_and_drift

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import MDSettings, relax

MODEL = "est-crystal"
REPEATS = {"Cu": 2, "Al": 2, "Si": 2, "NaCl": 2, "MgO": 2}
ROCK_SALTS = {"NaCl": 5.69, "MgO": 4.25}
SETTINGS = {"seed": 0, "fmax eV/Å": 0.02, "time ps": 10, "time step fs": 2.0, "first K": 600, "crystals": [*REPEATS]}
COLUMNS = {"atoms": sum, "mean K": np.mean, DRIFT: lambda drifts: max(drifts, key=abs), DEVIATION: max, "molten": sum}


def run(smoke: bool, model: str) -> Answer:
    """One row a crystal, then the worst of all."""
    duration = 20.0 if smoke else 1000.0 * SETTINGS["time ps"]
    with work_folder("conservation_crystals", SETTINGS, smoke, model) as folder:
        names = {name: name for name in (["Cu"] if smoke else REPEATS)}
        rows = each(names, partial(_row, model=model, duration=duration, folder=folder), folder)
    shown = table(rows, COLUMNS)
    summary = {
        "largest drift, up or down, in meV/atom/ps (goal: at most 0.1)": largest_drift(rows),
        "crystals that ended with an error (goal: 0)": shown[-1]["error"],
    }
    return Answer(shown, summary, computed(rows))


def _row(name: str, model: str, duration: float, folder: Path) -> Row:
    salt = {"crystalstructure": "rocksalt", "a": ROCK_SALTS[name]} if name in ROCK_SALTS else {}
    atoms = bulk(name, cubic=True, **salt)
    atoms.calc = GeoMolCalculator(model)
    minimum = relax(atoms, fmax=SETTINGS["fmax eV/Å"], cell=True, optimizer="LBFGS").atoms
    start = minimum.repeat(REPEATS[name])
    start.calc = atoms.calc
    settings = MDSettings("nve", SETTINGS["first K"], SETTINGS["time step fs"], seed=SETTINGS["seed"])
    row, frames = run_and_drift(start, settings, duration, folder / name)
    nearest = start.get_all_distances(mic=True)[0, 1:].min()
    return {**row, "molten": int(_farthest(start, frames[-1]) > nearest / 3)}


def _farthest(start: Atoms, end: Atoms) -> float:
    """Å, which an atom moved; the crystal as a whole does not."""
    moved = end.positions - start.positions
    return float(np.linalg.norm(moved - moved.mean(0), axis=1).max())


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, settings=SETTINGS)
