"""How fast is the calculator on a GPU, beside one core of the same machine?

Energy and forces through the calculator, each call with all atoms moved by about 0.001 Å as a step of MD does; boxes of
liquid acetic acid, single precision. "memory" is the peak that torch allocated on the device. Without a CUDA device
only the processor is timed.
"""

from __future__ import annotations

import torch
from _frame import Row, answer, progress
from _structures import liquid
from _timing import mover, timed
from ase import Atoms
from ase.build import molecule

from ase_geomol import GeoMolCalculator

MODEL = "geomformer-organic"
SIZES = (64, 512, 4096, 16384, 32768)
LARGEST_ON_CPU = 512
ROUNDS = 3


def run(smoke: bool, model: str) -> list[Row]:
    """One row a structure."""
    structures = {"ethanol": molecule("CH3CH2OH")}
    structures |= {f"acetic acid {size}": liquid(size) for size in (SIZES[:1] if smoke else SIZES)}
    rows = [_row(name, structures[name], model, 1 if smoke else ROUNDS) for name in progress(structures, "structures")]
    return rows


def _row(name: str, atoms: Atoms, model: str, rounds: int) -> Row:
    row: Row = {"structure": name, "atoms": len(atoms)}
    row["CPU ms"] = 1e3 * _seconds(atoms, model, "cpu", rounds) if len(atoms) <= LARGEST_ON_CPU else None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        seconds = _seconds(atoms, model, "cuda", rounds)
        row["GPU ms"], row["GPU µs an atom"] = 1e3 * seconds, 1e6 * seconds / len(atoms)
        row["GPU memory MB"] = torch.cuda.max_memory_allocated() / 1e6
        row["GPU"] = torch.cuda.get_device_name()
    return row


def _seconds(atoms: Atoms, model: str, device: str, rounds: int) -> float:
    call = mover(atoms, GeoMolCalculator(model, device=device))
    return min(timed(call, 0.5) for _ in range(rounds))


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL)
