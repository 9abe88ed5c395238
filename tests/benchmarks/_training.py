"""A training step on frames that need no data: molecules, moved at random, with labels of the potential itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from _structures import DRUGS
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from geomol_training.batches import Batch, make_batch
from geomol_training.frames import Row, pack
from geomol_training.loss import total_loss
from geomol_training.memory import keep_freed_memory
from geomol_training.objective import predict
from geomol_training.recipe import Loss

from ase_geomol import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.potential import Potential
from ase_geomol.simulate.structures import load_structure

LOSS = Loss(energy=5.0, forces=1.0)
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
    """A call that does one step: energies, forces, loss, its gradient by the weights, optimiser.

    It keeps freed memory from here on, as `geomol-train fit` does.
    """
    keep_freed_memory()
    potential.train()
    optimiser = torch.optim.AdamW(potential.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimiser.zero_grad()
        total_loss(predict(potential, batch, LOSS), batch, LOSS).backward()
        optimiser.step()

    return step
