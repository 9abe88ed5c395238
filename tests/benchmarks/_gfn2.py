"""GFN2-xTB, the theory that the shipped potential learned, beside our structures."""

from __future__ import annotations

from ase import Atoms
from tblite.ase import TBLite

from ase_geomol.simulate import RelaxResult, relax


def xtb(method: str = "GFN2-xTB") -> TBLite:
    """The ASE calculator of tblite, with its own accuracy (1.0) and electronic temperature (300 K)."""
    return TBLite(method=method, verbosity=0)


def relaxed(atoms: Atoms, fmax: float, steps: int) -> RelaxResult:
    """A relaxation with GFN2-xTB (L-BFGS; eV/Å)."""
    start = atoms.copy()
    start.calc = xtb()
    return relax(start, fmax=fmax, steps=steps, optimizer="LBFGS")
