"""How long does a neighbour list take, beside ASE's own, and what does the Verlet skin save?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from _frame import Row, answer, progress
from _timing import time_in_turns, timed
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from ase_geomol.neighbors import NeighborCache, neighbor_pairs

CUTOFF = 5.0


def run(smoke: bool) -> list[Row]:
    """One row a structure."""
    structures = {"ethanol": molecule("CH3CH2OH"), "copper 256": bulk("Cu", cubic=True) * (4, 4, 4)}
    if not smoke:
        structures["copper 2048"] = bulk("Cu", cubic=True) * (8, 8, 8)
    return [_row(name, structures[name], rounds=1 if smoke else 7) for name in progress(structures, "structures")]


def _row(name: str, atoms: Atoms, rounds: int) -> Row:
    tensors = (torch.tensor(atoms.positions), torch.tensor(np.asarray(atoms.cell)), torch.tensor(atoms.pbc))
    numbers, cache = torch.tensor(atoms.numbers), NeighborCache(CUTOFF)
    seconds = time_in_turns(
        {
            "ase": partial(timed, lambda: neighbor_list("ijS", atoms, CUTOFF)),
            "fresh": partial(timed, lambda: neighbor_pairs(*tensors, CUTOFF)),
            "kept": partial(timed, lambda: cache.pairs(*tensors, numbers)),
        },
        rounds,
    )
    return {
        "structure": name,
        "atoms": len(atoms),
        "ASE ms": 1e3 * seconds["ase"],
        "fresh ms": 1e3 * seconds["fresh"],
        "kept by the skin ms": 1e3 * seconds["kept"],
        "fresh / ASE": seconds["fresh"] / seconds["ase"],
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["vesin"])
