"""How many atoms a second do trainings by the recipes learn from, and which share of the time is outside the network?

`geomol-train fit` runs with each recipe on structures of its kind, made on the spot with labels at random (their values
cost nothing), with clocks around its parts; each clock stops while another one, inside, runs. Validation comes as often
per step, on as many frames per step, as in the recipe; its predictions count as forward passes. "Outside": all of the
loop but forward and backward passes; atoms a second are those of the whole loop. This is one process: where several
share the work, waiting for each other comes on top. Ctrl-C leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from _clock import Clock
from _frame import Answer, Row, answer, progress
from _structures import DRUGS
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from geomol_training import batches, fit, frames, keeper, objective
from geomol_training.conformers import learning
from geomol_training.conformers.flow_recipe import FlowRecipe
from geomol_training.labelling.qm9 import sample_qm9
from geomol_training.readers.aselmdb import write_aselmdb
from geomol_training.recipe import Recipe, load_recipe
from geomol_training.tasks import PotentialTask, PropertyTask, RelaxationTask
from geomol_training.tasks.base import Task
from materials import CRYSTALS
from rich.console import Console

from ase_geomol import RDKitProvider
from ase_geomol.errors import ProviderError
from ase_geomol.simulate.structures import load_structure

RECIPES = Path(__file__).parents[2] / "training/recipes"
SEED, STRUCTURES = 0, 200
FORWARD, BACKWARD, OPTIMISER = "forward and loss", "backward", "optimiser, clipping, mean"
BATCHES, VALIDATION, REST = "making batches", "errors and saving", "all else in the loop"
OUTSIDE = (OPTIMISER, BATCHES, VALIDATION, REST)
BEFORE_AND_AFTER = "reading the data before it, files after it"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (fit, "fit", BEFORE_AND_AFTER),
    (lightning.Trainer, "fit", REST),
    (batches, "make_batch", BATCHES),
    (learning, "make_flow_batch", BATCHES),
    *((task, "loss", FORWARD) for task in (PotentialTask, PropertyTask, RelaxationTask, learning.FlowGoal)),
    *((task, "predict", FORWARD) for task in (Task, PotentialTask, PropertyTask, RelaxationTask, learning.FlowGoal)),
    (torch.Tensor, "backward", BACKWARD),
    (objective.Fitting, "optimizer_step", OPTIMISER),
    (objective.Fitting, "on_train_batch_end", OPTIMISER),
    (objective.Fitting, "on_validation_epoch_end", VALIDATION),
    (keeper, "save_checkpoint", VALIDATION),
    (keeper.Keeper, "save", VALIDATION),
)
"""Functions by owner and name, and the part of a training that each belongs to."""


class Case(NamedTuple):
    """A recipe and how it is tried.

    Attributes:
        recipe: its name.
        structures: that it would learn from.
        written: writes them with labels.
        steps: that take a minute or so.
        validated: frames (molecules) in each validation of the recipe, with its own data.
        split: of the data, as a recipe has it.
    """

    recipe: str
    structures: Callable[[], list[Atoms]]
    written: Callable[[list[Atoms], Path, np.random.Generator], Path]
    steps: int
    validated: int
    split: str = "{{by: frame, valid: {valid}}}"


def run(smoke: bool) -> Answer:
    """One row for each recipe."""
    chosen = [case for case in CASES if case.recipe in ("rmd17", "shipped/ditmc_small")] if smoke else CASES
    rows = [_row(case, smoke) for case in progress(chosen, "recipes")]
    worst = max(row["share outside"] for row in rows)
    return Answer(rows, {"largest share outside forward and backward (target: 0.1 or less)": worst})


def _row(case: Case, smoke: bool) -> Row:
    steps = 2 if smoke else case.steps
    atoms: list[int] = []
    clock = Clock(loop=REST, outside=BEFORE_AND_AFTER)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        recipe = _recipe(case, Path(folder), steps, 12 if smoke else STRUCTURES)
        stack.enter_context(_counted(atoms))
        for owner, name, part in PARTS:
            stack.enter_context(clock.around(owner, name, part))
        quiet = Console(file=StringIO())
        fitted = fit.fit(recipe, Path(folder) / "run", threads=torch.get_num_threads(), workers=0, console=quiet)
    if fitted.stopped_by == "interrupted":
        raise KeyboardInterrupt
    loop = sum(seconds for part, seconds in clock.seconds.items() if part != BEFORE_AND_AFTER)
    shares = {part: clock.seconds[part] / loop for part in (FORWARD, BACKWARD, *OUTSIDE)}
    about = {"recipe": case.recipe, "steps": fitted.step, "atoms a step": sum(atoms) / fitted.step}
    outside = sum(shares[part] for part in OUTSIDE)
    return {**about, "atoms/s": sum(atoms) / loop, **shares, "share outside": outside}


@contextmanager
def _counted(atoms: list[int]) -> Iterator[None]:
    """Note the atoms of each batch that is learned from."""
    original = objective.Fitting.on_train_batch_end

    def counting(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        atoms.append(batch.whole.atoms if batch.last else 0)
        original(self, outputs, batch, batch_idx)

    objective.Fitting.on_train_batch_end = counting
    try:
        yield
    finally:
        objective.Fitting.on_train_batch_end = original


def _recipe(case: Case, folder: Path, steps: int, count: int) -> Recipe | FlowRecipe:
    """The recipe, on structures of our own and with few steps."""
    path = RECIPES / f"{case.recipe}.yaml"
    recipe = load_recipe(path)
    training = recipe.training
    valid = max(2, round(case.validated * steps / training.validate_every))
    random, kinds = np.random.default_rng(SEED), case.structures()
    moved = []
    for index in range(count + valid):
        atoms = kinds[index % len(kinds)].copy()
        atoms.positions += random.normal(0, 0.03, atoms.positions.shape)
        moved.append(atoms)
    changes = {
        "data.train": case.written(moved, folder, random),
        **({"data.test": "null"} if isinstance(recipe, Recipe) else {}),
        "data.split": case.split.format(valid=valid),
        "training.max_steps": steps,
        "training.max_epochs": "null",
        "training.validate_every": steps,
        "training.valid_frames": valid,
    }
    if isinstance(recipe, Recipe) and recipe.elements:  # no fewer, no more than the structures have
        changes["model.config.elements"] = sorted({int(number) for atoms in kinds for number in atoms.numbers})
    return load_recipe(path, tuple(f"{name}={value}" for name, value in changes.items()))


# --- structures, and how their labels are written


def _drugs() -> list[Atoms]:
    return [load_structure(smiles) for smiles in DRUGS]


def _crystals() -> list[Atoms]:
    return [bulk(name, structure, a=a) * (2, 2, 1) for name, (structure, a) in CRYSTALS.items()]


def _slabs() -> list[Atoms]:
    made = []
    for symbol in ("Cu", "Pt", "Ni"):
        atoms = fcc111(symbol, (3, 3, 4), vacuum=8.0, periodic=True)
        add_adsorbate(atoms, molecule("CO"), 1.9, "ontop")
        atoms.set_tags([0] * 18 + [1] * 18 + [2] * 2)
        atoms.set_constraint(FixAtoms(range(18)))
        atoms.info = {}
        made.append(atoms)
    return made


def _conformers() -> list[Atoms]:
    """Two of each molecule."""
    random, maker, made = np.random.default_rng(SEED), RDKitProvider(force_field=None), []
    for found in sample_qm9(STRUCTURES, random):
        with suppress(ProviderError):
            made += list(maker.iterate(found.smiles, 2, seed=SEED, time_limit=5))
    return made


def _as_potential(structures: list[Atoms], folder: Path, random: np.random.Generator) -> Path:
    """Energies, of atoms too, forces and stresses."""
    for atoms in structures:
        shares = random.normal(-5, 0.1, len(atoms))
        labels = {"energy": shares.sum(), "energies": shares, "forces": random.normal(0, 1, (len(atoms), 3))}
        labels |= {"stress": random.normal(0, 0.01, 6)} if atoms.pbc.all() else {}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write(folder / "frames.extxyz", structures)
    return folder / "frames.extxyz"


def _as_property(name: str, structures: list[Atoms], folder: Path, random: np.random.Generator) -> Path:
    for atoms in structures:
        atoms.info = {name: float(random.normal(5, 1))}
    write(folder / "frames.extxyz", structures)
    return folder / "frames.extxyz"


def _as_relaxation(structures: list[Atoms], folder: Path, random: np.random.Generator) -> Path:
    rows = [
        frames.Row(
            atoms.numbers,
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            energy=float(random.normal(-100, 1)),
            relaxed=atoms.positions + random.normal(0, 0.1, atoms.positions.shape),
            tags=atoms.get_tags(),
            fixed=np.isin(np.arange(len(atoms)), atoms.constraints[0].index),
        )
        for atoms in structures
    ]
    write_aselmdb(folder / "frames.aselmdb", rows)
    return folder / "frames.aselmdb"


def _as_conformers(structures: list[Atoms], folder: Path, random: np.random.Generator) -> Path:
    structures = sorted(structures, key=lambda atoms: atoms.info["smiles"])  # those of a molecule follow each other
    for atoms in structures:
        smiles = atoms.info["smiles"]
        atoms.info = {"smiles": smiles, "molecule": smiles}
        atoms.calc = None
    write(folder / "frames.extxyz", structures)
    return folder / "frames.extxyz"


CASES = (
    Case("shipped/geomformer_organic", _drugs, _as_potential, 150, 1000),
    Case("shipped/est_crystal", _crystals, _as_potential, 80, 500),
    Case("shipped/ditmc_small", _conformers, _as_conformers, 150, 375, "{{by: group, valid: 0.1}}"),
    Case("rmd17", lambda: [molecule("CH3CH2OH")], _as_potential, 300, 50),
    Case("rmd17_est", lambda: [molecule("CH3CH2OH")], _as_potential, 150, 50),
    Case("qm9", _drugs, partial(_as_property, "alpha"), 40, 2000),
    Case("pcqm4mv2_gap_small", _drugs, partial(_as_property, "homolumogap"), 150, 200),
    Case("oc20/s2ef_small", _slabs, _as_potential, 60, 60),
    Case("oc20/is2re_small", _slabs, _as_relaxation, 80, 2),
    Case("oc20/is2rs_small", _slabs, _as_relaxation, 80, 2),
)
"""Recipes that a CPU can run; the papers' large ones are of the same networks."""


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["lightning"], settings={"seed": SEED, "structures": STRUCTURES})
