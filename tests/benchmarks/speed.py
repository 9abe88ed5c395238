"""How long does one energy-and-forces call take, beside GFN2-xTB (the theory that the potential learned)?

Both run through their ASE calculators on the same slightly moved molecules, in turns; "network" is the potential
without the calculator, so that the calculator's own share can be read off.
"""

from __future__ import annotations

import numpy as np
from _frame import Row, answer, time_in_turns
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from tblite.ase import TBLite

from ase_geomol import GeoMolCalculator
from ase_geomol.graph import from_atoms
from ase_geomol.simulate.structures import load_structure

MODEL = "geomformer-organic"
STRUCTURES = {
    "ethanol": lambda: molecule("CH3CH2OH"),
    "aspirin": lambda: load_structure("CC(=O)Oc1ccccc1C(=O)O"),
    "ibuprofen": lambda: load_structure("CC(C)Cc1ccc(cc1)C(C)C(=O)O"),
    "8 x aspirin": lambda: _copies(load_structure("CC(=O)Oc1ccccc1C(=O)O"), 8),
}


def run(smoke: bool, model: str) -> list[Row]:
    """One row a structure."""
    names = ["ethanol"] if smoke else list(STRUCTURES)
    return [_row(name, STRUCTURES[name](), model, rounds=3 if smoke else 30) for name in names]


def _row(name: str, atoms: Atoms, model: str, rounds: int) -> Row:
    ours = GeoMolCalculator(model)
    potential = ours.checkpoints[0].potential
    graph = from_atoms(atoms, potential.cutoff)
    seconds = time_in_turns(
        {
            "ours": _mover(atoms, ours),
            "network": lambda: potential(graph),
            "gfn2": _mover(atoms, TBLite(method="GFN2-xTB", verbosity=0)),
        },
        rounds,
    )
    return {
        "structure": name,
        "atoms": len(atoms),
        "ours ms": 1e3 * seconds["ours"],
        "GFN2-xTB ms": 1e3 * seconds["gfn2"],
        "ours / GFN2-xTB": seconds["ours"] / seconds["gfn2"],
        "calculator's share": 1 - seconds["network"] / seconds["ours"],
    }


def _mover(atoms: Atoms, calculator: Calculator):
    """A call that moves every atom by about 0.001 Å and asks for forces, as a step of MD does."""
    moving = atoms.copy()
    moving.calc = calculator
    random = np.random.default_rng(0)

    def call() -> None:
        moving.positions += random.normal(0, 1e-3, moving.positions.shape)
        moving.get_forces()

    return call


def _copies(atoms: Atoms, count: int) -> Atoms:
    """Copies side by side in a row along z, 4 Å between them."""
    length = np.ptp(atoms.positions[:, 2]) + 4.0
    together = atoms.copy()
    for index in range(1, count):
        copy = atoms.copy()
        copy.translate([0, 0, index * length])
        together += copy
    return together


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["tblite"], model=MODEL)
