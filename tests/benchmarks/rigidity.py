"""How well do predicted standard deviations tell where the potential is wrong, on molecules that it never saw?

The weights need a rigidity (`geomol-train rigidity`). Twenty neutral molecules of the conformer benchmark are measured
on the frames of `forces.py`, along dynamics at 300 K on GFN2-xTB; the same frames with every coordinate off by a normal
deviate of 0.2 Å are geometries outside the training data; and eight small molecules with bonds that it lacks (SF6, P4,
ClF3 …), near their minima of GFN2-xTB, are its chemistry outside. Of elements that the weights do not know there is
nothing to measure: the calculator refuses them. "Spearman" are rank correlations: of energies' deviations with their
errors, of a frame's largest deviation of an atom with its RMS force error, of atoms' deviations with the error of the
force on them. "times inside" is how many times as large a frame's largest deviation is, by medians.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import forces
import numpy as np
from _frame import Answer, Row, answer
from _gfn2 import relaxed, xtb
from _training import labelled_structures
from _unseen import unseen
from _work import computed, each, table, work_folder
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from geomol_training.frames import pack
from geomol_training.readers import Keys, row_of_atoms
from geomol_training.rigidity import Deviations, add_rigidity, agreement, deviations

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import DataError
from ase_geomol.simulate import load_structure

MODEL = "geomformer-organic"
SMOKE, SMOKE_UNUSUAL = ("CCO",), ("S1SSSSSSS1",)
UNUSUAL = (
    "FS(F)(F)(F)(F)F",
    "ClP(Cl)(Cl)(Cl)Cl",
    "ClI(Cl)Cl",
    "OCl(=O)(=O)=O",
    "P12P3P1P23",
    "S1SSSSSSS1",
    "C12C3C4C1C5C2C3C45",
    "O=C=C=C=O",
)
KINDS = INSIDE, RATTLED, BONDS = "held out", "rattled", "unusual bonds"
SPEARMAN_GOAL, TIMES_GOAL = 0.5, 3
"""Of deviations with errors of forces; of deviations outside over those inside."""
SETTINGS = {
    **forces.SETTINGS,
    "rattled by Å": 0.2,
    "rattled frames": 5,
    "unusual molecules": len(UNUSUAL),
    "near minima by Å": 0.03,
}
SEED = SETTINGS["seed"]


class Subject(NamedTuple):
    """A molecule, and which kind of frames of it are measured."""

    start: Atoms
    kind: str


def run(smoke: bool, model: str) -> Answer:
    """One row a molecule and kind, then all."""
    scale = 0.01 if smoke else 1.0
    if not smoke and load_checkpoint(model).potential.rigidity is None:
        raise DataError(f"The weights of {model} have no rigidity: add one with geomol-train rigidity --save-as.")
    with (
        work_folder("forces", forces.SETTINGS, smoke) as reference,
        work_folder("rigidity", SETTINGS, smoke, model) as folder,
    ):
        weights = _with_rigidity(model, folder) if smoke else model
        work = partial(_row, model=str(weights), reference=reference, scale=scale)
        # One kind after the other: rattled frames are of dynamics that the first kind makes.
        subjects = _subjects(smoke)
        rows = [row for kind in KINDS for row in each(_of_kind(subjects, kind), work, folder)]
    measured = [row for row in rows if not row["error"]]
    columns = {"kind": lambda _: "", "atoms": sum, "frames": sum, "largest std eV": np.median, "force RMSE eV/Å": _rms}
    return Answer(table(rows, columns), _summary(measured, len(rows)), computed(rows))


def _subjects(smoke: bool) -> dict[str, Subject]:
    """Molecules by the names of their rows."""
    subjects = {}
    for atoms in islice(unseen(SMOKE if smoke else ()), SETTINGS["molecules"]):
        for kind in (INSIDE, RATTLED):
            subjects[f"{atoms.info['name']}, {kind}"] = Subject(atoms, kind)
    for smiles in SMOKE_UNUSUAL if smoke else UNUSUAL:
        atoms = load_structure(f"smiles:{smiles}")
        atoms.info["name"] = atoms.get_chemical_formula()
        subjects[f"{atoms.info['name']}, {BONDS}"] = Subject(atoms, BONDS)
    return subjects


def _of_kind(subjects: dict[str, Subject], kind: str) -> dict[str, Subject]:
    return {name: subject for name, subject in subjects.items() if subject.kind == kind}


def _row(subject: Subject, model: str, reference: Path, scale: float) -> Row:
    frames = _frames(subject, reference, scale)
    packed = pack(row_of_atoms(atoms, Keys()) for atoms in frames)
    found = deviations(load_checkpoint(model).potential, packed, lambda what, done, all_frames: None)
    return {
        "kind": subject.kind,
        "atoms": len(subject.start),
        "frames": len(frames),
        "largest std eV": float(np.median(found.largest)),
        "force RMSE eV/Å": _rms(found.frames[:, 1]),
        "deviations": {name: values.tolist() for name, values in found._asdict().items()},
    }


def _frames(subject: Subject, reference: Path, scale: float) -> list[Atoms]:
    """Frames of a molecule with energies and forces of GFN2-xTB."""
    start, random = subject.start, np.random.default_rng(SEED)
    if subject.kind == BONDS:
        minimum = relaxed(start, SETTINGS["fmax eV/Å"], SETTINGS["most steps"]).atoms
        return [_moved(minimum, SETTINGS["near minima by Å"], random) for _ in range(SETTINGS["rattled frames"])]
    along = forces.labelled_frames(start, reference / start.info["name"], scale)
    if subject.kind == INSIDE:
        return along
    chosen = np.linspace(0, len(along) - 1, SETTINGS["rattled frames"]).round().astype(int)
    return [_moved(along[index], SETTINGS["rattled by Å"], random) for index in chosen]


def _moved(atoms: Atoms, width: float, random: np.random.Generator) -> Atoms:
    moved = Atoms(atoms.numbers, atoms.positions + random.normal(0, width, atoms.positions.shape))
    moved.calc = xtb()
    energy, slopes = moved.get_potential_energy(), moved.get_forces()
    moved.calc = SinglePointCalculator(moved, energy=energy, forces=slopes)
    return moved


def _summary(rows: list[Row], subjects: int) -> dict[str, float | None]:
    together = {kind: _together(rows, (kind,)) for kind in KINDS}
    summary: dict[str, float | None] = {}
    inside = together[INSIDE]
    if inside is not None:
        found = agreement(inside, calibrated_on=False)
        summary["energy error / std, RMS, held out (right: 1)"] = found["energy_error_over_std_RMS"]
        for name, what in (("energy", "energies"), ("force_of_frames", "frames"), ("force_of_atoms", "atoms")):
            goal = "" if name == "energy" else f" (goal: at least {SPEARMAN_GOAL})"
            summary[f"Spearman, {what}, held out{goal}"] = found.get(f"spearman_{name}")
        for kind in (RATTLED, BONDS):
            other = together[kind]
            if other is not None:
                times = float(np.median(other.largest) / np.median(inside.largest))
                summary[f"largest std, {kind}, times inside (goal: at least {TIMES_GOAL})"] = times
    everything = _together(rows, KINDS)
    if everything is not None:
        found = agreement(everything, calibrated_on=False)
        summary["Spearman, frames, all kinds together"] = found.get("spearman_force_of_frames")
    summary["rows that ended with an error (goal: 0)"] = subjects - len(rows)
    return summary


def _together(rows: list[Row], kinds: tuple[str, ...]) -> Deviations | None:
    """Deviations of all molecules of these kinds; None without any."""
    found: list[dict[str, Any]] = [row["deviations"] for row in rows if row["kind"] in kinds]
    if not found:
        return None
    return Deviations(*(np.concatenate([np.array(part[name]) for part in found]) for name in Deviations._fields))


def _rms(values: Any) -> float:
    return float(np.sqrt(np.square(np.asarray(values, dtype=float)).mean()))


def _with_rigidity(model: str, folder: Path) -> Path:
    """The weights with a rigidity from a few frames, whose labels are the potential's own with noise."""
    random, frames = np.random.default_rng(0), list(labelled_structures(model, 24))
    for number, atoms in enumerate(frames):
        energy, slopes = atoms.get_potential_energy() + random.normal(0, 0.01), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=slopes)
        atoms.info["split"] = "valid" if number % 2 else "train"
    write(folder / "frames.extxyz", frames)
    return add_rigidity(
        model, str(folder / "frames.extxyz"), folder / "evaluation", save_as=folder / "with_rigidity.safetensors"
    ).path


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL, on_card=True, settings=SETTINGS)
