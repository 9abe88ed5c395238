"""Peer: our own calculator in a fresh process, to see its memory. Arguments: a file with one structure, a model.

It answers "seconds", the median of a call, and "memory", the bytes of its peak above what it held before its first
call.
"""

from __future__ import annotations

import os
import resource
import sys
from functools import partial
from pathlib import Path

import torch
from _timing import mover, serve, timed
from ase import Atoms
from ase.io import read

from ase_geomol import GeoMolCalculator


def peak_memory() -> int:
    """Bytes of this process at its largest.

    On Linux this is not `getrusage`, which there begins with the size of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    atoms = read(sys.argv[1])
    assert isinstance(atoms, Atoms)
    call = mover(atoms, GeoMolCalculator(sys.argv[2]))
    before = peak_memory()
    serve({"seconds": partial(timed, call, 0.5), "memory": lambda: peak_memory() - before}, {})
