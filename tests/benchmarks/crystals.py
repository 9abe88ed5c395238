"""How far is the crystal potential from its teacher on compositions it has not seen, and how far are both from DFT?

"Labels": frames of the labels whose compositions were held out of the training, by how they were made, against the
teacher's labels. The rest: frames of MPtrj (held-out compositions only) and of the element sets of Zuo et al. (elements
were in the training), where both potentials are compared with DFT (PBE and PBE+U), and ours with the teacher. The
teacher, SevenNet-0, was itself trained on MPtrj, and its energies are on the same scale. Those of the element sets are
not: there the mean difference is taken out. Stresses of the element sets are not compared: their unit is not told.
"Refused": frames that one of the two does not compute, which count nowhere.
"""

from __future__ import annotations

import ast
import io
import json
import lzma
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from _frame import RECIPES, Answer, Row, answer
from _peers import Peers
from _work import computed, each, work_folder
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread
from ase.stress import voigt_6_to_full_3x3_stress
from geomol_training.crystals.structures import split_of_composition
from geomol_training.recipe import Recipe, load_recipe
from materials import TEACHER, teacher
from pymatgen.core import Structure

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import DataError, GeoMolError

MODEL = "est-crystal"
DFT = Path("../shared/data/crystals")
RECIPE = load_recipe(RECIPES / "est_crystal.yaml")
assert isinstance(RECIPE, Recipe)
LABELS = (RECIPE.data.train,) if isinstance(RECIPE.data.train, str) else RECIPE.data.train
SETTINGS = {
    "labels": f"frames of the test split in {', '.join(LABELS)}",
    "MPtrj": "frames of the test compositions",
    "Zuo et al.": "test frames",
    "largest force eV/Å": 30.0,
    "most atoms": 120,
}
ELEMENTS = set(RECIPE.elements or ())
ZUO = ("Li", "Mo", "Si", "Ge")
OURS, TEACHERS = "ours, DFT", "teacher, DFT"
ENERGY, FORCES, STRESS = "energy meV/atom", "forces meV/Å", "stress meV/Å³"


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """One row for each set of frames and each pair that is compared."""
    python = peers.environment(TEACHER)
    sets = _smoke_sets() if smoke else _sets()
    of_dft = {name: frames for name, frames in sets.items() if not name.startswith("labels")}
    with work_folder("crystals", SETTINGS, smoke) as reference, work_folder("crystals", SETTINGS, smoke, model) as own:
        theirs = each(of_dft, partial(_answers, python=python), reference) if python and of_dft else []
        ours = each(sets, partial(_answers, model=model), own)
    taught = {row["name"]: row for row in theirs}
    rows = [row for found in ours for row in _compared(found, taught.get(found["name"], {}), sets[found["name"]])]
    labels = [row for row in rows if row["frames of"].startswith("labels") and not row["error"]]
    summary: dict[str, float | None] = {
        f"{what} MAE to the teacher, all held-out labels": _mean(labels, f"{what} MAE", counted)
        for what, counted in ((ENERGY, "frames"), (FORCES, "atoms"), (STRESS, "with stress"))
    }
    for row in rows:
        if row["frames of"].startswith("MPtrj") and row["compared"] in (OURS, TEACHERS) and not row["error"]:
            for what in (ENERGY, FORCES, STRESS):
                summary[f"{what} MAE, {row['frames of']}: {row['compared']}"] = row[f"{what} MAE"]
    summary["sets that ended with an error (goal: 0)"] = sum(bool(row["error"]) for row in rows)
    return Answer(rows, summary, computed([*ours, *theirs]))


def _mean(rows: list[Row], name: str, counted: str) -> float | None:
    """Mean over all frames, or atoms, of the rows that know it."""
    known = [(row[name], row[counted]) for row in rows if row[name] is not None]
    return float(np.average([value for value, _ in known], weights=[count for _, count in known])) if known else None


def _sets() -> dict[str, list[Atoms]]:
    """Frames by name of their set, each with what it is compared with as its calculator."""
    held_out: dict[str, list[Atoms]] = {}
    for folder in LABELS:
        paths = sorted(Path(folder).glob("*.extxyz"))
        if not paths:
            raise DataError(f"There are no labels in {folder}: make them with geomol-train crystals, or run --smoke.")
        for atoms in chain.from_iterable(map(iread, paths)):
            if atoms.info["split"] == "test":
                held_out.setdefault(f"labels: {atoms.info['source']}", []).append(atoms)
    for kind in ("random", "highest-stress"):
        path = DFT / f"mptrj-{kind}-1k.extxyz.xz"
        if not path.exists():
            raise DataError(f"There is no {path}: run from the repository's root with the data beside it, or --smoke.")
        frames = iread(io.StringIO(lzma.decompress(path.read_bytes()).decode()), format="extxyz")
        held_out[f"MPtrj, {kind.replace('-', ' ')}"] = [
            atoms for atoms in frames if split_of_composition(atoms) == "test" and _fits(atoms)
        ]
    for element in ZUO:
        held_out[f"{element} of Zuo et al."] = [
            atoms for atoms in _zuo(DFT / "mlearn" / f"{element}_test.json.xz") if _fits(atoms)
        ]
    return held_out


def _smoke_sets() -> dict[str, list[Atoms]]:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-16.0, forces=np.zeros((4, 3)), stress=np.zeros(6))
    return {"labels: copper": [atoms]}


def _fits(atoms: Atoms) -> bool:
    strongest = np.linalg.norm(atoms.get_forces(), axis=1).max()
    return (
        len(atoms) <= SETTINGS["most atoms"]
        and set(atoms.numbers.tolist()) <= ELEMENTS
        and strongest <= SETTINGS["largest force eV/Å"]
    )


def _zuo(path: Path) -> Iterator[Atoms]:
    for row in json.loads(lzma.decompress(path.read_bytes())):
        structure, outputs = (
            value if isinstance(value, dict) else ast.literal_eval(value)
            for value in (row["structure"], row["outputs"])
        )
        atoms = Structure.from_dict(structure).to_ase_atoms()
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        bare.calc = SinglePointCalculator(bare, energy=outputs["energy"], forces=np.array(outputs["forces"]))
        yield bare


def _answers(frames: list[Atoms], model: str | None = None, python: Path | None = None) -> Row:
    """Energies, forces and stresses of all frames by one potential; None for a frame that it refuses."""
    calculator = teacher(python) if python is not None else GeoMolCalculator(str(model))
    answers: list[dict[str, Any] | None] = []
    for atoms in frames:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, calculator=calculator)
        try:
            found = {"energy": bare.get_potential_energy(), "forces": bare.get_forces().tolist()}
            answers.append(found | ({"stress": bare.get_stress().tolist()} if bare.pbc.all() else {}))
        except DataError:
            teacher.cache_clear()  # it has died: the next set starts another one
            raise
        except GeoMolError as error:
            answers.append({"refused": str(error)})
    return {"answers": answers}


def _compared(ours: Row, theirs: Row, frames: list[Atoms]) -> list[Row]:
    """Rows of one set: ours and the teacher against its labels, and ours against the teacher where labels are DFT."""
    if ours["error"] or theirs.get("error"):
        return [_row(ours["name"], "", error=ours["error"] or theirs["error"])]
    labels = [dict(atoms.calc.results) for atoms in frames]  # pyright: ignore[reportOptionalMemberAccess]
    if ours["name"].startswith("labels"):
        return [_errors(ours["name"], "ours, teacher", frames, ours["answers"], labels, fit=False)]
    fit = not ours["name"].startswith("MPtrj")
    pairs = [(OURS, ours["answers"], labels, fit)]
    if theirs:
        pairs.append((TEACHERS, theirs["answers"], labels, fit))
        pairs.append(("ours, teacher", ours["answers"], theirs["answers"], False))
    return [_errors(ours["name"], title, frames, found, true, fit) for title, found, true, fit in pairs]


def _errors(name: str, title: str, frames: list[Atoms], found: Sequence[Row], true: Sequence[Row], fit: bool) -> Row:
    """Of energies (with ``fit``, but for their mean difference an atom), forces and stresses of one set."""
    kept = [i for i in range(len(frames)) if "refused" not in found[i] and "refused" not in true[i]]
    if not kept:
        return _row(name, title, refused=len(frames))
    sizes = np.array([len(frames[i]) for i in kept])
    energy = np.array([found[i]["energy"] - true[i]["energy"] for i in kept]) / sizes
    energy -= energy.mean() if fit else 0.0
    forces = [np.subtract(found[i]["forces"], true[i]["forces"]).ravel() for i in kept]
    stressed = [i for i in kept if {"stress"} <= found[i].keys() & true[i].keys()]
    stress = [voigt_6_to_full_3x3_stress(np.subtract(found[i]["stress"], true[i]["stress"])) for i in stressed]
    size = np.concatenate([np.ravel(true[i]["forces"]) for i in kept])
    return _row(
        name,
        title,
        frames=len(kept),
        refused=len(frames) - len(kept),
        atoms=int(sizes.sum()),
        with_stress=len(stressed),
        energy=1e3 * float(np.abs(energy).mean()),
        forces=1e3 * float(np.abs(np.concatenate(forces)).mean()),
        size=1e3 * float(np.abs(size).mean()),
        stress=1e3 * float(np.abs(stress).mean()) if stress else None,
    )


def _row(
    name: str,
    title: str,
    *,
    frames: int = 0,
    refused: int = 0,
    atoms: int = 0,
    with_stress: int = 0,
    energy: float | None = None,
    forces: float | None = None,
    size: float | None = None,
    stress: float | None = None,
    error: str = "",
) -> Row:
    return {
        "frames of": name,
        "compared": title,
        "frames": frames,
        "refused": refused,
        "atoms": atoms,
        "with stress": with_stress,
        f"{ENERGY} MAE": energy,
        f"{FORCES} MAE": forces,
        f"mean {FORCES}": size,
        f"{STRESS} MAE": stress,
        "error": error,
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["pymatgen"], model=MODEL, on_card=True, settings=SETTINGS, with_peers=True)
