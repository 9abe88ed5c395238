"""A training step on frames that need no data: molecules, moved at random, with labels of the potential itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from _structures import DRUGS
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from geomol_training.batches import Batch, make_batch
from geomol_training.frames import Row, pack
from geomol_training.memory import keep_freed_memory
from geomol_training.optimiser import make_optimiser
from geomol_training.recipe import Loss
from geomol_training.runs import STOPPED, Fitted
from geomol_training.sections import Optimiser
from geomol_training.tasks import PotentialTask
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.potential import Potential
from ase_geomol.simulate.structures import load_structure

TASK = PotentialTask(Loss(energy=5.0, forces=1.0))
MEV = 43.3641
"""meV in one kcal/mol."""
LEARNING_RATE = 1e-6
"""So small that the weights stay what they are, however often the step is repeated."""


def labelled_structures(model: str, count: int, seed: int = 0) -> Iterator[Atoms]:
    """The drug molecules in turn, their atoms moved by about 0.03 Å, with energy and forces of the potential."""
    random, calculator = np.random.default_rng(seed), GeoMolCalculator(model)
    molecules = [load_structure(smiles) for smiles in DRUGS]
    molecules = [atoms for atoms in molecules if set(atoms.numbers) <= calculator.elements]
    for index in range(count):
        atoms = molecules[index % len(molecules)].copy()
        atoms.positions += random.normal(0, 0.03, atoms.positions.shape)
        calculator.calculate(atoms, ["energy", "forces"])
        atoms.calc = SinglePointCalculator(
            atoms, energy=calculator.results["energy"], forces=calculator.results["forces"]
        )
        yield atoms


def write_stand_in(folder: Path) -> None:
    """Files of rMD17's form for a molecule of 21 atoms, taken for aspirin, that is moved at random."""
    frames = [atoms for atoms in labelled_structures("geomformer-organic", 20) if len(atoms) == 21]
    frames = [atoms for atoms in frames if (atoms.numbers == frames[0].numbers).all()]
    table = {
        "nuclear_charges": frames[0].numbers,
        "coords": np.stack([atoms.positions for atoms in frames]),
        "energies": np.array([atoms.get_potential_energy() * 1000 / MEV for atoms in frames]),
        "forces": np.stack([atoms.get_forces() * 1000 / MEV for atoms in frames]),
    }
    for part in ("train", "test"):
        np.savez(folder / f"rmd17_aspirin_{part}_01.npz", **table)


def unless_stopped(result: Fitted) -> Fitted:
    """The same; raises KeyboardInterrupt where someone stopped the training, which goes on in the next run."""
    if result.stopped_by in STOPPED:
        raise KeyboardInterrupt
    return result


def training_batch(model: str, structures: int) -> Batch:
    """So many labelled structures side by side."""
    rows = [
        Row(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=np.zeros((3, 3)),
            pbc=atoms.pbc,
            energy=atoms.get_potential_energy(),
            forces=atoms.get_forces(),
        )
        for atoms in labelled_structures(model, structures)
    ]
    return make_batch(pack(rows), np.arange(structures), load_checkpoint(model).potential.cutoff)


def training_step(potential: Potential, batch: Batch) -> Callable[[], None]:
    """A call that does one step: energies, forces, loss, its gradient by the weights, AdamW.

    It keeps freed memory from here on, as `geomol-train fit` does.
    """
    optimiser = make_optimiser(potential, Optimiser(name="adamw", lr=LEARNING_RATE))
    return _step(potential, batch, optimiser, optimiser.step)


def recipe_step(potential: Potential, batch: Batch) -> Callable[[], None]:
    """The same with what the recipes do in place of AdamW: clipping, Muon, running mean of the weights."""
    parameters: list[torch.Tensor] = list(potential.parameters())
    optimiser = make_optimiser(potential, Optimiser(name="muon", lr=LEARNING_RATE))
    averaged: list[torch.Tensor] = list(copy.deepcopy(potential).requires_grad_(False).parameters())
    average = get_ema_multi_avg_fn(0.999)

    def learn() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        with torch.no_grad():
            average(averaged, parameters, 1)

    return _step(potential, batch, optimiser, learn)


def _step(
    potential: Potential, batch: Batch, optimiser: torch.optim.Optimizer, learn: Callable[[], object]
) -> Callable[[], None]:
    keep_freed_memory()
    potential.train()

    def step() -> None:
        optimiser.zero_grad()
        TASK.loss(potential, batch).backward()
        learn()

    return step
