"""Peer: CHGNet through its ASE calculator, weights of its wheel. Argument: a file of structures with names."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version

import torch
from _timing import mover, serve, timed
from ase.io import iread
from chgnet.model.dynamics import CHGNetCalculator  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    calculator = CHGNetCalculator(use_device="cpu")
    calls = {str(atoms.info["name"]): mover(atoms, calculator) for atoms in iread(sys.argv[1])}
    about = {
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in calculator.model.parameters()),
        "versions": {package: version(package) for package in ("chgnet", "torch", "ase", "pymatgen")},
    }
    serve({name: partial(timed, call) for name, call in calls.items()}, about)
