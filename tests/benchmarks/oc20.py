"""Do the networks learn from OC20's relaxations, and more than who looks at means only?

The twenty relaxations in `../shared/data/oc20` are learned with the small recipes of S2EF, IS2RE and IS2RS. "one
relaxation" is learned by heart: what is measured is what was learned, the shortest one. "other frames" of the
relaxations that are learned are measured for S2EF; "other relaxations" are two, after 16 were learned. "S2EF from
est-crystal" is a fine-tuning of the shipped weights, which know these elements from crystals; with it the starts of the
two are relaxed, too (to 0.03 eV/Å, 200 steps at most): ends and ways are in its row. Energies are total ones, MAEs of
structures; forces and ways are those of atoms that may move. Beside them is who knows the mean energy of what is
learned, or an energy of each element fitted to it (S2EF and IS2RE), and who says that there are no forces or no motion.
ADwT is the share of structures whose atoms end close enough, averaged over OC20's thresholds.

Eight trainings of `--minutes` each; after Ctrl-C the same command goes on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _frame import Answer, Row, answer
from _training import unless_stopped
from _work import computed, each, table, work_folder
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS, LBFGS
from geomol_training.finetune import Options, make_recipe
from geomol_training.fit import fit
from geomol_training.frames import Frames, displacements, pack, way
from geomol_training.keeper import LAST, read_state
from geomol_training.metrics import Predicted
from geomol_training.parts import read_parts
from geomol_training.readers import Keys, start_and_end
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.recipe import Loss, Recipe, Relaxation, load_recipe
from geomol_training.references import composition, fit_references
from geomol_training.tasks import RelaxationTask
from rich.console import Console

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import DataError

DATA = Path("../shared/data/oc20")
RECIPES = Path(__file__).parents[2] / "training/recipes/oc20"
MINUTES = 10.0
START = "est-crystal"
TUNED = f"S2EF from {START}"
FMAX, STEPS = 0.03, 200
ONE, FRAMES, OTHERS = "one relaxation", "other frames", "other relaxations"
SETTINGS = {"data": "20 relaxations of OC20, 3372 frames, total energies (RPBE)", "seed": 142}
ENERGY, FORCES, WAY, NEAR = "energy MAE (eV)", "forces MAE (eV/Å)", "way MAE (Å)", "ADwT (%)"
END = "energy MAE of ends (eV)"
COLUMNS = {"task": lambda _: "", "measured on": lambda _: ""} | dict.fromkeys(
    (ENERGY, "of the mean", "of elements", FORCES, "of no forces", END, WAY, "of no way", NEAR, "of no motion"),
    lambda _: None,
)
COLUMNS |= {"steps": sum, "minutes": sum}


class Study(NamedTuple):
    """One training: of which task, and what is measured."""

    task: str
    measured: str


STUDIES = (
    Study("S2EF", ONE),
    Study("S2EF", FRAMES),
    Study("S2EF", OTHERS),
    Study(TUNED, OTHERS),
    Study("IS2RE", ONE),
    Study("IS2RE", OTHERS),
    Study("IS2RS", ONE),
    Study("IS2RS", OTHERS),
)


def run(smoke: bool, minutes: float) -> Answer:
    """One row a training."""
    tuned = {"start": load_checkpoint(START).fingerprint, "relaxed to eV/Å": FMAX, "in steps": STEPS}
    with work_folder("oc20", {**SETTINGS, "minutes": minutes, **tuned}, smoke) as folder:
        data = _stand_in(folder / "trajectories") if smoke else DATA
        _ends(data, folder)
        work = partial(_row, data=data, folder=folder, seconds=None if smoke else 60 * minutes)
        rows = each({f"{study.task}, {study.measured}": study for study in STUDIES}, work, folder)
    return Answer(table(rows, COLUMNS), _summary(rows), computed(rows))


def _paths(data: Path) -> list[Path]:
    paths = sorted(data.glob("*.traj"))
    if not paths:
        raise DataError(f"There are no relaxations in {data}: run from the repository's root with the data beside it.")
    return paths


def _ends(data: Path, folder: Path) -> None:
    """Starts and ends of all relaxations, and of the shortest one, as databases."""
    paths = _paths(data)
    for name, chosen in (("all", paths), ("one", [_shortest(data)])):
        file = folder / f"{name}.aselmdb"
        if not file.exists():
            write_aselmdb(file, (start_and_end(path, Keys()) for path in chosen))


def _shortest(data: Path) -> Path:
    return min(_paths(data), key=lambda path: path.stat().st_size)


def _recipe(study: Study, data: Path, folder: Path, *, smoke: bool) -> Recipe:
    one, everything = folder / "one.aselmdb", folder / "all.aselmdb"
    if study.task in ("S2EF", TUNED):
        one, everything = _shortest(data), data / "*.traj"
    if study.measured == ONE:
        changes = [f"data.{part}={one}" for part in ("train", "valid", "test")]
    else:
        changes = [f"data.train={everything}"]
        if study.measured == FRAMES:
            changes += ["data.split={by: frame, valid: 0.1, test: 0.1}"]
        elif smoke:
            changes += ["data.split={by: group, valid: 1, test: 1}"]
    changes += ["training.max_steps=2", "model.config.layers=1"] if smoke else ["training.max_steps=null"]
    kind = "s2ef" if study.task == TUNED else study.task.lower()
    small = load_recipe(RECIPES / f"{kind}_small.yaml", changes)
    return _tuned(small) if study.task == TUNED else small


def _tuned(small: Recipe) -> Recipe:
    """A fine-tuning of shipped weights on the same data, with the same loss."""
    tuned = make_recipe(START, load_checkpoint(START), small.data.train, Options(theory="RPBE"))
    steps = {"max_steps": small.training.max_steps, "patience": None}
    changed = {"seed": small.seed, "data": small.data, "loss": small.loss}
    return tuned.model_copy(update={**changed, "training": tuned.training.model_copy(update=steps)})


def _row(study: Study, data: Path, folder: Path, seconds: float | None) -> Row:
    recipe = _recipe(study, data, folder, smoke=seconds is None)
    out, quiet = folder / f"{study.task}-{study.measured.replace(' ', '-')}", Console(quiet=True)
    resume = (out / LAST).exists()
    result = unless_stopped(fit(recipe, out, resume=resume, time_budget=seconds, threads=1, console=quiet))
    parts = read_parts(recipe, out, read_state(out / LAST, "identity")["identity"]["data"], quiet)
    test = parts.train if parts.test is None else parts.test
    ours = {
        ENERGY: _scaled(result.errors.get("test_energy_MAE_meV"), 1e-3),
        FORCES: _scaled(result.errors.get("test_forces_MAE_meV_per_A"), 1e-3),
        WAY: result.errors.get("test_displacement_MAE_A"),
        NEAR: result.errors.get("test_ADwT_percent"),
        "of no motion": result.errors.get("test_ADwT_percent_without_motion"),
    }
    about = {"task": study.task, "measured on": study.measured, "steps": result.step, "minutes": result.elapsed / 60}
    found = {**about, **ours, **_trivial(study, parts.train, test)}
    return found | _relaxed(result.model, test, 2 if seconds is None else STEPS) if study.task == TUNED else found


def _relaxed(model: Path, test: Frames, steps: int) -> Row:
    """How close the weights bring the starts of relaxations to their ends."""
    starts = [start_and_end(Path(name), Keys()) for name in np.unique(test.trajectory_names[test.trajectory])]
    calc, energies, ways = GeoMolCalculator(model), [], []
    for start in starts:
        atoms = Atoms(
            start.numbers, start.positions, cell=start.cell, pbc=start.pbc, constraint=FixAtoms(mask=start.fixed)
        )
        atoms.calc = calc
        LBFGS(atoms, logfile=None).run(fmax=FMAX, steps=steps)
        energies.append(atoms.get_potential_energy())
        ways.append(way(start.positions, atoms.positions, start.cell, start.pbc))
    frames = pack(starts)
    task = RelaxationTask(Loss(), Relaxation(energy=1.0, displacement=(1.0, 1.0)), tagged=False)
    errors = task.errors(frames, Predicted(np.array(energies), np.concatenate(ways)))
    return {
        END: errors["energy_MAE_meV"] * 1e-3,
        WAY: errors["displacement_MAE_A"],
        "of no way": float(np.abs(displacements(frames)[~frames.fixed]).mean()),
        NEAR: errors["ADwT_percent"],
        "of no motion": errors["ADwT_percent_without_motion"],
    }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _trivial(study: Study, train: Frames, test: Frames) -> Row:
    """MAEs of those who have learned next to nothing."""
    found: Row = {}
    if study.task != "IS2RS" and len(train) > 1:
        elements, counts = composition(test)
        references = fit_references(train)
        told = counts @ np.array([references[int(number)] for number in elements])
        found["of the mean"] = float(np.abs(test.energy - train.energy.mean()).mean())
        found["of elements"] = float(np.abs(test.energy - told).mean())
    free = ~test.fixed
    if study.task in ("S2EF", TUNED):
        found["of no forces"] = float(np.abs(test.forces[free]).mean())
    else:
        found["of no way"] = float(np.abs(displacements(test)[free]).mean())
    return found


def _summary(rows: list[Row]) -> dict[str, float | None]:
    """Our errors beside those of who knows least, and the shares of structures that end close enough."""
    summary: dict[str, float | None] = {}
    for row in rows:
        if row["error"]:
            continue
        for ours, theirs, who in (
            (ENERGY, "of the mean", "mean energy"),
            (ENERGY, "of elements", "energies of elements"),
            (FORCES, "of no forces", "no forces"),
            (WAY, "of no way", "no motion"),
        ):
            if row.get(ours) is not None and row.get(theirs):
                summary[f"{row['name']}: {ours.split()[0]}, ours / {who} (goal: below 1)"] = row[ours] / row[theirs]
    summary["trainings that ended with an error (goal: 0)"] = sum(bool(row["error"]) for row in rows)
    return summary


def _stand_in(folder: Path) -> Path:
    """Short relaxations of oxygen on copper with EMT."""
    folder.mkdir()
    for index in range(4):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
        add_adsorbate(atoms, "O", 1.2 + 0.2 * index, "fcc")
        atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
        atoms.pbc, atoms.calc, frames = True, EMT(), []
        optimiser = BFGS(atoms, logfile=None)
        for _ in optimiser.irun(fmax=0.01, steps=3 + index):
            frames.append(atoms.copy())
            frames[-1].calc, frames[-1].info = EMT(), {"molecule": f"random{index}"}
            frames[-1].get_forces()
        write(folder / f"random{index}.traj", frames)
    return folder


if __name__ == "__main__":
    answer(__doc__ or "", run, minutes=MINUTES, settings=SETTINGS)
