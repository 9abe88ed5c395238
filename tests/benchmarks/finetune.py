"""How many frames of a new molecule and theory does fine-tuning save?

Ethanol and aspirin of revised MD17 (PBE), learned from 10 to 950 frames: fine-tuned from the shipped potential, which
has learned GFN2-xTB energies of many molecules, by `geomol-train finetune` as it is, and from scratch by
`training/recipes/rmd17.yaml`. Every training has the same time, and the same 50 frames, beside those to learn, choose
its best weights; fewer frames are among the more. Errors are of the 1000 test frames of official split 01.

The aim: 50 frames, fine-tuned, beat 500 from scratch. `results/finetune.png` shows errors over the number of frames.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from _frame import RESULTS, Answer, Row, answer
from _training import unless_stopped, write_stand_in
from _work import computed, each, table, work_folder
from geomol_training.finetune import Options, finetune
from geomol_training.fit import Fitted, fit
from geomol_training.keeper import LAST
from geomol_training.recipe import load_recipe
from matplotlib.figure import Figure
from rich.console import Console

MODEL, MINUTES = "geomformer-organic", 10.0
DATA, RECIPE = Path("../shared/data/rmd17"), Path("training/recipes/rmd17.yaml")
MOLECULES, SIZES = ("ethanol", "aspirin"), (10, 50, 100, 200, 950)
FEW, MANY = 50, 500
"""Frames of the aim: fine-tuned, and from scratch."""
TUNED, SCRATCH = "fine-tuned", "from scratch"
ENERGY, FORCES = "energy MAE (meV)", "forces MAE (meV/Å)"
SETTINGS = {"data": "revised MD17, split 01: 50 frames to validate, 1000 to test", "seed": 0}
COLUMNS = {ENERGY: max, FORCES: max, "steps": sum, "minutes": sum}


class Study(NamedTuple):
    """One training: of which molecule, how, from how many frames; a smoke test ends after two steps."""

    molecule: str
    how: str
    frames: int
    smoke: bool = False


def run(smoke: bool, model: str, minutes: float) -> Answer:
    """One row a training, then the aim."""
    studies = [Study("aspirin", how, 1, smoke=True) for how in (TUNED, SCRATCH)]
    if not smoke:
        studies = [Study(name, how, count) for name in MOLECULES for how in (TUNED, SCRATCH) for count in _sizes(how)]
    with work_folder("finetune", {**SETTINGS, "minutes": minutes}, smoke, model) as folder:
        data = DATA
        if smoke:
            data = folder
            write_stand_in(folder)
        work = partial(_row, model=model, seconds=60 * minutes, data=data, folder=folder)
        rows = each({f"{study.molecule}, {study.frames} frames, {study.how}": study for study in studies}, work, folder)
        _draw([row for row in rows if not row["error"]], (folder if smoke else RESULTS) / "finetune.png")
    return Answer(table(rows, COLUMNS), _summary(rows), computed(rows))


def _sizes(how: str) -> tuple[int, ...]:
    return SIZES if how == TUNED else tuple(sorted((*SIZES, MANY)))


def _row(study: Study, model: str, seconds: float, data: Path, folder: Path) -> Row:
    out = folder / f"{study.molecule}-{study.frames}-{study.how.replace(' ', '-')}"
    train = _tuned if study.how == TUNED else _from_scratch
    result = unless_stopped(train(study, model, None if study.smoke else seconds, data, out))
    return {
        "molecule": study.molecule,
        "how": study.how,
        "frames": study.frames,
        ENERGY: result.errors["test_energy_MAE_meV"],
        FORCES: result.errors["test_forces_MAE_meV_per_A"],
        "steps": result.step,
        "minutes": result.elapsed / 60,
    }


def _tuned(study: Study, model: str, seconds: float | None, data: Path, out: Path) -> Fitted:
    train, test = (str(data / f"rmd17_{study.molecule}_{part}_01.npz") for part in ("train", "test"))
    options = Options(frames=study.frames, valid=50, test=test, theory="PBE/def2-SVP")
    if study.smoke:
        options = options._replace(valid=1, max_steps=2)
    resume = (out / LAST).exists()
    return finetune(model, train, out, options, resume=resume, console=_quiet(), time_budget=seconds, threads=1)


def _from_scratch(study: Study, model: str, seconds: float | None, data: Path, out: Path) -> Fitted:
    changes = [f"data.{part}={data}/rmd17_{{molecule}}_{part}_01.npz" for part in ("train", "test")]
    changes += [f"variables.molecule={study.molecule}", f"training.train_frames={study.frames}"]
    changes += ["training.max_epochs=null"]  # the time ends it
    if study.smoke:
        changes += ["data.split.train=null", "data.split.valid=1", "training.max_steps=2", "model.config.layers=1"]
    resume = (out / LAST).exists()
    return fit(load_recipe(RECIPE, changes), out, resume=resume, console=_quiet(), time_budget=seconds, threads=1)


def _quiet() -> Console:
    return Console(quiet=True)


def _summary(rows: list[Row]) -> dict[str, float | None]:
    """The aim for each molecule, where both trainings were made; and how many ended with an error."""
    forces = {(row["molecule"], row["how"], row["frames"]): row[FORCES] for row in rows if not row["error"]}
    summary: dict[str, float | None] = {}
    for molecule in MOLECULES:
        few, many = forces.get((molecule, TUNED, FEW)), forces.get((molecule, SCRATCH, MANY))
        if few and many:
            name = f"forces, {molecule}: {FEW} frames fine-tuned / {MANY} from scratch (aim: below 1)"
            summary[name] = few / many
    summary["trainings that ended with an error (goal: 0)"] = sum(bool(row["error"]) for row in rows)
    return summary


def _draw(rows: list[Row], path: Path) -> None:
    """Errors of energies and forces over the number of frames, a colour for each molecule."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), (ENERGY, FORCES), strict=True):
        for colour, molecule in enumerate(dict.fromkeys(row["molecule"] for row in rows)):
            for how, style in ((TUNED, "o-"), (SCRATCH, "s--")):
                chosen = sorted((row for row in rows if (row["molecule"], row["how"]) == (molecule, how)), key=_frames)
                x, y = [row["frames"] for row in chosen], [row[quantity] for row in chosen]
                axes.loglog(x, y, style, color=f"C{colour}", label=f"{molecule}, {how}")
        axes.set(xlabel="frames to learn", ylabel=quantity)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=160)


def _frames(row: Row) -> int:
    return row["frames"]


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, minutes=MINUTES, settings=SETTINGS)
