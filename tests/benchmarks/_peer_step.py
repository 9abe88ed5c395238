"""Peer: our own training step in a process of its own. Arguments: a model, structures in a batch, "with" or "without".

It answers "step", the median seconds of a step, with freed memory kept or given back to the system.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import _training
import torch
from _timing import serve, timed

from ase_geomol.checkpoint import load_checkpoint

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, structures, kept = sys.argv[1:]
    if kept == "without":
        _training.keep_freed_memory = lambda: False
    step = _training.training_step(load_checkpoint(model).potential, _training.training_batch(model, int(structures)))
    serve({"step": partial(timed, step)}, {"freed memory": "kept" if kept == "with" else "given back"})
