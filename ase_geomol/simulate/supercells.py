"""Cells and their images: how often they must be repeated, and whether bonds run through them."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.geometry import minkowski_reduce

from .watch import find_bonds


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


def is_endless(atoms: Atoms) -> bool:
    """Whether bonds link atoms with their own images, as in a crystal or a slab, but not in one of molecules."""
    periodic = atoms.cell.array[atoms.pbc]
    if not len(periodic) or not (np.isfinite(periodic).all() and np.isfinite(atoms.positions).all()):
        return False
    if np.linalg.matrix_rank(periodic) < len(periodic):  # calculators say so
        return False
    bonds: dict[int, list[tuple[int, np.ndarray]]] = {}
    for first, second, image in zip(*find_bonds("ijS", atoms), strict=True):
        bonds.setdefault(int(first), []).append((int(second), image))
    seen: dict[int, np.ndarray] = {}
    for start in range(len(atoms)):
        waiting = [] if start in seen else [start]
        seen.setdefault(start, np.zeros(3, dtype=int))
        while waiting:
            atom = waiting.pop()
            for other, image in bonds.get(atom, []):
                if other not in seen:
                    seen[other] = seen[atom] + image
                    waiting.append(other)
                elif (seen[other] != seen[atom] + image).any():
                    return True
    return False
