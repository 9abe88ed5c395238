"""Peer: GFN2-xTB of tblite through its ASE calculator. Argument: a file of structures with names."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version

from _timing import mover, serve, timed
from ase.io import iread
from tblite.ase import TBLite

if __name__ == "__main__":
    calls = {
        str(atoms.info["name"]): mover(atoms, TBLite(method="GFN2-xTB", verbosity=0)) for atoms in iread(sys.argv[1])
    }
    about = {"threads": int(os.environ["OMP_NUM_THREADS"]), "versions": {p: version(p) for p in ("tblite", "ase")}}
    serve({name: partial(timed, call) for name, call in calls.items()}, about)
