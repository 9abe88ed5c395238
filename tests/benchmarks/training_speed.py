"""How many atoms a second does a training step learn from, beside a PaiNN of about as many parameters?

A step is energies, forces, a loss of both, its gradient by the weights (so the forces are differentiated once more)
and the optimiser. Both networks see the same batch with the same neighbour pairs, which are made beforehand, and take
turns; PaiNN is SchNetPack's, in a process of its own with the same settings of the memory allocator. The comparison is
with AdamW for both. A second row is our step as the recipes do it, with Muon, clipping and a running mean of the
weights, beside the same PaiNN. It takes about a minute: Ctrl-C leaves nothing.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _frame import Answer, Row, answer, progress
from _peers import Package, PeerError, Peers
from _timing import time_in_turns, timed
from _training import recipe_step, training_batch, training_step
from geomol_training.batches import Batch
from geomol_training.memory import LARGEST_MMAP_THRESHOLD

from ase_geomol.checkpoint import load_checkpoint

MODEL = "geomformer-organic"
PAINN = Package("PaiNN", "_peer_painn.py", "schnetpack==2.0.3")
STRUCTURES = (4, 16)
"""Structures in a batch."""
ROUNDS = 9
STEPS = {"AdamW": training_step, "with Muon, clipping and averaging": recipe_step}
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(LARGEST_MMAP_THRESHOLD), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""What `geomol_training.memory.keep_freed_memory` does, for a process that is about to start."""


def run(smoke: bool, model: str, peers: Peers) -> Answer:
    """Two rows a size of the batch."""
    os.environ.update(MEMORY)
    sizes = STRUCTURES[:1] if smoke else STRUCTURES
    rows = [
        row for size in progress(sizes, "batches") for row in _rows(model, size, peers, rounds=1 if smoke else ROUNDS)
    ]
    summary = {
        f"ours / PaiNN, {row['structures']} structures, {row['our step']} (goal: at least 1)": row["ours / PaiNN"]
        for row in rows
    }
    return Answer(rows, summary)


def _rows(model: str, structures: int, peers: Peers, rounds: int) -> list[Row]:
    potential, batch = load_checkpoint(model).potential, training_batch(model, structures)
    parameters = sum(parameter.numel() for parameter in potential.parameters())
    turns = {name: partial(timed, make(load_checkpoint(model).potential, batch)) for name, make in STEPS.items()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "batch.npz"
        _save(file, batch, potential.cutoff)
        peer = peers.start(PAINN, str(file), str(parameters))
        if peer is not None:
            try:
                peer.ask("step")
                turns["PaiNN"] = partial(peer.ask, "step")
            except PeerError as error:
                peers.leave_out(PAINN.name, error)
        seconds = time_in_turns(turns, rounds)
    atoms = batch.graph.n_atoms
    painn = atoms / seconds["PaiNN"] if "PaiNN" in seconds else None
    return [
        {
            "structures": structures,
            "atoms": atoms,
            "pairs": batch.graph.n_edges,
            "our parameters": parameters,
            "PaiNN's parameters": peer.about["parameters"] if peer else None,
            "our step": name,
            "our atoms/s": atoms / seconds[name],
            "PaiNN's atoms/s": painn,
            "ours / PaiNN": atoms / seconds[name] / painn if painn else None,
        }
        for name in STEPS
    ]


def _save(file: Path, batch: Batch, cutoff: float | None) -> None:
    """Write what PaiNN needs; the structures are not periodic."""
    graph = batch.graph
    np.savez(
        file,
        numbers=graph.numbers,
        positions=graph.positions,
        system=graph.system,
        receiver=graph.edge_index[0],
        sender=graph.edge_index[1],
        energy=batch.energy,
        forces=batch.forces,
        cutoff=np.array(cutoff),
    )


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, with_peers=True)
