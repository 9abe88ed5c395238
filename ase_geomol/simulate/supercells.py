"""How often a cell must be repeated until images are far from each other."""

from __future__ import annotations

import numpy as np
from ase.cell import Cell
from ase.geometry import minkowski_reduce


def repeats(cell: Cell, apart: float) -> tuple[int, int, int]:
    """Repetitions of each vector until no two images are closer than ``apart`` (Å), few of them.

    Lengths of the vectors alone would not do: those of a cell with sharp angles have short sums and differences.
    """
    lengths = cell.lengths()
    counts = np.ceil(apart / lengths - 1e-9).astype(int)
    while True:
        vectors, combinations = minkowski_reduce(cell.array * counts[:, None])
        sizes = np.linalg.norm(vectors, axis=1)
        shortest = int(np.argmin(sizes))
        if sizes[shortest] >= apart - 1e-9:
            return (int(counts[0]), int(counts[1]), int(counts[2]))
        taking_part = np.flatnonzero(combinations[shortest])
        counts[taking_part[np.argmin((counts * lengths)[taking_part])]] += 1
