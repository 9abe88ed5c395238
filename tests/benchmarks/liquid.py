"""Does a liquid hold together at constant pressure, and at which density?

64 molecules of ethanol are packed into a periodic cube at 0.6 g/cm³, relaxed a little, and run for 5 ps at 300 K and
1 bar (time step 1 fs) with what `ase-geomol md --ensemble npt` runs: ASE's LangevinBAOAB, Langevin dynamics with an
isotropic Langevin-Hoover barostat. Mean density: over the second half. A bond is broken that is ever longer than 1.5
sums of its covalent radii. Measured density of ethanol at 298 K: 0.785 g/cm³. The picture shows density, temperature
and energy over time. A run that explodes is a row that says so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _measures import BONDS, bonds_row, pack
from _work import computed, dynamics, each, read_frames, work_folder
from ase import Atoms, units
from matplotlib.figure import Figure

from ase_geomol import GeoMolCalculator
from ase_geomol.simulate import MDResult, MDSettings, load_structure, relax

MODEL = "geomformer-organic"
SETTINGS = {
    "liquid": "CCO",
    "molecules": 64,
    "first density g/cm³": 0.6,
    "seed": 7,
    "fmax eV/Å": 0.5,
    "most steps": 100,
    "time ps": 5,
    "time step fs": 1.0,
    "temperature K": 300,
    "pressure bar": 1.0,
    **BONDS,
}
MEASURED = 0.785  # g/cm³, ethanol at 298 K
MEAN = "mean density g/cm³"


def run(smoke: bool, model: str) -> Answer:
    """One row, and a picture."""
    with work_folder("liquid", SETTINGS, smoke, model) as folder:
        rows = each({SETTINGS["liquid"]: smoke}, partial(_row, model=model, folder=folder), folder)
    summary = {
        f"mean density g/cm³, measured {MEASURED}": rows[0].get(MEAN),
        "broken bonds (goal: 0)": rows[0].get("broken bonds"),
        "runs that ended with an error (goal: 0)": int(bool(rows[0]["error"])),
    }
    shown = [{name: value for name, value in row.items() if name not in ("date", "processor")} for row in rows]
    return Answer(shown, summary, computed(rows))


def _row(smoke: bool, model: str, folder: Path) -> Row:
    per_side = 2 if smoke else round(SETTINGS["molecules"] ** (1 / 3))
    duration = 10.0 if smoke else 1000.0 * SETTINGS["time ps"]
    settings = MDSettings(
        ensemble="npt",
        temperature=SETTINGS["temperature K"],
        timestep=SETTINGS["time step fs"],
        pressure=SETTINGS["pressure bar"] * units.bar,
        seed=SETTINGS["seed"],
    )
    start = _start(per_side, folder / "md")
    start.calc = GeoMolCalculator(model)
    if not (folder / "md" / "state.json").exists():
        steps = 5 if smoke else SETTINGS["most steps"]
        start = relax(start, fmax=SETTINGS["fmax eV/Å"], steps=steps, optimizer="FIRE").atoms
    result, frames = dynamics(start, settings, duration, folder / "md")
    density = _density(result)
    _draw(result, density, folder / "liquid.png")
    last = density[len(density) // 2 :]
    return {
        "molecules": per_side**3,
        "atoms": len(start),
        "ps": result.time / 1000,
        "mean K": float(np.mean(result.log["temperature_K"][len(density) // 2 :])),
        "first density g/cm³": float(density[0]),
        MEAN: float(last.mean()),
        "its standard deviation": float(last.std()),
        "finite": "yes" if all(np.isfinite(values).all() for values in result.log.values()) else "NO",
        **bonds_row(frames[0], frames),
    }


def _start(per_side: int, folder: Path) -> Atoms:
    """The packed cube; of a run that goes on, its first frame."""
    if (folder / "state.json").exists():
        return read_frames(folder / "trajectory.extxyz")[0]
    molecule = load_structure(SETTINGS["liquid"])
    grams = molecule.get_masses().sum() / units.mol  # of one molecule; ASE's mol is Avogadro's number
    spacing = (grams / SETTINGS["first density g/cm³"] * 1e24) ** (1 / 3)
    return pack(molecule, per_side, spacing, SETTINGS["seed"])


def _density(result: MDResult) -> np.ndarray:
    """g/cm³ at every recorded time."""
    return result.atoms.get_masses().sum() / units.mol / (result.log["volume_A3"] * 1e-24)


def _draw(result: MDResult, density: np.ndarray, path: Path) -> None:
    figure = Figure(figsize=(7, 6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    time = result.log["time_fs"] / 1000
    top.plot(time, density)
    top.axhline(MEASURED, color="0.6", ls="--", lw=1, label="measured, 298 K")
    top.legend()
    middle.plot(time, result.log["temperature_K"])
    bottom.plot(time, (result.log["potential_eV"] - result.log["potential_eV"][0]) / len(result.atoms))
    for axes, label in zip((top, middle, bottom), ("Density (g/cm³)", "T (K)", "ΔE (eV/atom)"), strict=True):
        axes.set_ylabel(label)
    bottom.set_xlabel("Time (ps)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, settings=SETTINGS)
