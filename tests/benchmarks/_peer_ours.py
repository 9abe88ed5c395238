"""Peer: our own calculator in a fresh process, to see its memory. Arguments: a file with one structure, a model.

It answers "seconds", the median of a call, and "memory", the bytes of its peak above what it held at the moment before
its first call, with weights and structure loaded.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from _timing import mover, serve, timed
from ase import Atoms
from ase.io import read

from ase_geomol import GeoMolCalculator


def memory(kind: str) -> int:
    """Bytes of this process, on Linux: "VmRSS", what it holds; "VmHWM", its peak. Elsewhere always the peak.

    On Linux the peak is not `getrusage`'s, which there begins with the size of the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split(f"{kind}:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Let the peak begin with what the process holds now, where the system can: loading may have taken more."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    atoms = read(sys.argv[1])
    assert isinstance(atoms, Atoms)
    call = mover(atoms, GeoMolCalculator(sys.argv[2]))
    forget_peak()
    before = memory("VmRSS")
    serve({"seconds": partial(timed, call, 0.5), "memory": lambda: memory("VmHWM") - before}, {})
