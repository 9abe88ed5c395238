"""Which share of the machine's rate of matrix multiplication do an inference call and a training step reach?

The rate is that of two square float32 matrices, measured in the same turns. "operations" are those of the network's
products of matrices, from its configuration (see `_operations`), in all slots that are computed; "useful" are those of
the atoms and neighbour pairs alone; "by torch" are those that torch counted as it ran. It takes about a minute: Ctrl-C
leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _frame import Row, answer, progress
from _operations import counted_by_torch, of_potential, useful
from _structures import ASPIRIN, liquid
from _timing import time_in_turns, timed
from _training import training_batch, training_step
from ase import Atoms

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.graph import AtomGraph, from_atoms
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
SIZE = 1024
"""Rows and columns of the matrices."""
ROUNDS = 9


class Work(NamedTuple):
    """Something that is timed: a call, the graph that it works on, operations by our own counts."""

    call: Callable[[], object]
    graph: AtomGraph
    operations: int
    useful: int


def run(smoke: bool, model: str) -> list[Row]:
    """One row for each kind of work, with one for the matrices."""
    works = {"energy and forces, aspirin": _inference(load_structure(ASPIRIN), model)}
    if not smoke:
        works["energy and forces, liquid 512"] = _inference(liquid(512), model)
    works["training step"] = _training(model, structures=2 if smoke else 16)
    return [_row(name, work, rounds=1 if smoke else ROUNDS) for name, work in progress(works.items(), "works")]


def _inference(atoms: Atoms, model: str) -> Work:
    potential = load_checkpoint(model).potential
    graph = from_atoms(atoms, potential.cutoff)
    counts = (of(potential, graph).energy_and_forces for of in (of_potential, useful))
    return Work(lambda: potential(graph), graph, *counts)


def _training(model: str, structures: int) -> Work:
    potential, batch = load_checkpoint(model).potential, training_batch(model, structures)
    counts = (of(potential, batch.graph).training_step for of in (of_potential, useful))
    return Work(training_step(potential, batch), batch.graph, *counts)


def _row(name: str, work: Work, rounds: int) -> Row:
    first, second = torch.randn(2, SIZE, SIZE)
    turns = {"work": partial(timed, work.call), "matrices": partial(timed, lambda: first @ second)}
    seconds = time_in_turns(turns, rounds)
    by_torch, rate = counted_by_torch(work.call), 2 * SIZE**3 / seconds["matrices"]
    return {
        "work": name,
        "atoms": work.graph.n_atoms,
        "pairs": work.graph.n_edges,
        "ms": 1e3 * seconds["work"],
        "operations (10⁶)": work.operations / 1e6,
        "useful (10⁶)": work.useful / 1e6,
        "by torch (10⁶)": by_torch / 1e6,
        "rate (10⁹/s)": work.operations / seconds["work"] / 1e9,
        "of matrices (10⁹/s)": rate / 1e9,
        "share": work.operations / seconds["work"] / rate,
        "share, useful": work.useful / seconds["work"] / rate,
        "share by torch": by_torch / seconds["work"] / rate,
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, settings={"matrices": f"{SIZE} x {SIZE}, float32"})
