"""Peer: our own training step in a process of its own. Arguments: a model, structures in a batch, then any of "given
back" (freed memory goes back to the system) and "again" (blocks are computed again for the derivatives).

It answers "step", the median seconds of a step, and "memory", the bytes of its peak above what it held before its first
step.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import _training
import torch
from _peer_ours import forget_peak, memory
from _timing import serve, timed

from ase_geomol.checkpoint import load_checkpoint

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, structures, *options = sys.argv[1:]
    if "given back" in options:
        _training.keep_freed_memory = lambda: False
    potential, batch = load_checkpoint(model).potential, _training.training_batch(model, int(structures))
    potential.model.recompute = "again" in options
    step = _training.training_step(potential, batch)
    forget_peak()
    before = memory("VmRSS")
    serve(
        {"step": partial(timed, step), "memory": lambda: memory("VmHWM") - before},
        {"atoms": batch.graph.n_atoms, "options": options},
    )
