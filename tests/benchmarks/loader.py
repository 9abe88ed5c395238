"""How fast are batches of OC20's size made, beside what the networks learn from?

Structures have the size of OC20's, 81 atoms that repeat themselves, and are in memory; each batch is searched for
neighbours anew, as in every training. "by 2 workers" is what two processes make for a third one that does nothing else,
starting them included. A step is forward, loss, its gradient and the optimiser, of the networks in the small recipes;
those in the recipes of the papers' sizes take longer. Where batches are made more slowly than a network learns, it
waits. It takes about a minute: Ctrl-C leaves nothing.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _frame import Answer, Row, answer, progress
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from geomol_training.batches import Plan, TrainingStream, loader
from geomol_training.beginning import untrained
from geomol_training.frames import Frames, pack
from geomol_training.frames import Row as Structure
from geomol_training.memory import keep_freed_memory
from geomol_training.optimiser import make_optimiser
from geomol_training.recipe import Recipe, load_recipe
from geomol_training.tasks import task_of

RECIPES = Path(__file__).parents[2] / "training/recipes/oc20"
NETWORKS = {"EST (S2EF)": "s2ef_small", "GeoMFormer (IS2RE)": "is2re_small"}
STRUCTURES, WORKERS, GOAL = 50, 2, 5
BATCHES, STEPS = 3000, 9
SETTINGS = {"structures": "Cu(111) with O, 81 atoms, periodic", "batches": "200 atoms"}
BATCH_ATOMS = 200


class Rate(NamedTuple):
    """Atoms in so many seconds."""

    atoms: int
    seconds: float


def run(smoke: bool) -> Answer:
    """Rows of the loader for each network's cutoff, and rows of the networks."""
    keep_freed_memory()
    frames, rows, summary = _slabs(4 if smoke else STRUCTURES), [], {}
    for name in progress(NETWORKS, "networks"):
        recipe = load_recipe(RECIPES / f"{NETWORKS[name]}.yaml")
        learned = _learned(recipe, frames, steps=1 if smoke else STEPS)
        rows.append(_row(name, "learned from", learned))
        for workers in (0, WORKERS):
            made = _made(recipe, frames, workers, batches=4 if smoke else BATCHES)
            rows.append(_row(name, f"made by {workers} workers" if workers else "made by the process itself", made))
            if workers:
                ratio = (made.atoms / made.seconds) / (learned.atoms / learned.seconds)
                summary[f"made by {workers} workers / learned from, {name} (goal: at least {GOAL})"] = ratio
    return Answer(rows, summary)


def _row(network: str, what: str, rate: Rate) -> Row:
    return {"network": network, "batches": what, "atoms/s": rate.atoms / rate.seconds}


def _slabs(count: int) -> Frames:
    """An oxygen atom on copper, moved at random, with a relaxed structure beside it; labels are random numbers."""
    random, rows = np.random.default_rng(0), []
    slab: Atoms = fcc111("Cu", (4, 4, 5), vacuum=10.0)
    add_adsorbate(slab, "O", 1.5, "fcc")
    slab.pbc = True
    for index in range(count):
        shape = slab.positions.shape
        rows.append(
            Structure(
                numbers=slab.numbers,
                positions=slab.positions + random.normal(0, 0.05, shape),
                cell=slab.cell.array,
                pbc=slab.pbc,
                energy=float(random.normal()),
                forces=random.normal(size=shape),
                group=str(index),
                relaxed=slab.positions,
            )
        )
    return pack(rows)


def _stream(recipe: Recipe, frames: Frames, batches: int) -> TrainingStream:
    plan = Plan(frames.n_atoms, frames.n_atoms, BATCH_ATOMS, recipe.seed)
    return TrainingStream(frames, plan, recipe.model.built.cutoff, batches, lambda: 0, disturb=task_of(recipe).disturb)


def _made(recipe: Recipe, frames: Frames, workers: int, batches: int) -> Rate:
    stream = _stream(recipe, frames, batches)
    start = time.perf_counter()
    atoms = sum(batch.graph.n_atoms for batch in loader(stream, workers))
    return Rate(atoms, time.perf_counter() - start)


def _learned(recipe: Recipe, frames: Frames, steps: int) -> Rate:
    """Of steps after a first one."""
    task, predictor = task_of(recipe), untrained(recipe, frames.elements)
    optimiser = make_optimiser(predictor.train(), recipe.optimiser)
    start = 0.0
    batches = list(islice(_stream(recipe, frames, steps + 1), steps + 1))
    for number, batch in enumerate(batches):
        if number == 1:
            start = time.perf_counter()
        optimiser.zero_grad()
        task.loss(predictor, batch).backward()
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), recipe.training.clip)
        optimiser.step()
    return Rate(sum(batch.graph.n_atoms for batch in batches[1:]), time.perf_counter() - start)


if __name__ == "__main__":
    answer(__doc__ or "", run, settings=SETTINGS, packages=["lightning"])
