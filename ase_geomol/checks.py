"""What counts as bad input, and the sentence that the user reads."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from .errors import InputError
from .graph import AtomGraph, edge_vectors

COINCIDENT = 0.05
"""Å; nuclei closer than this are taken for a mistake."""


def check_atoms(atoms: Atoms, elements: Collection[int], charges: Collection[int], spins: Collection[int]) -> None:
    """Refuse a structure that a potential cannot compute.

    Args:
        atoms: the structure.
        elements: atomic numbers that the potential knows.
        charges: total charges that it knows, compared with ``atoms.info["charge"]`` (default 0).
        spins: multiplicities that it knows, compared with ``atoms.info["spin"]`` (default: any of them) and with
            the number of electrons of a molecule; empty if its training data named none.

    Raises:
        InputError: with what is wrong, where, and what to do.
    """
    if len(atoms) == 0:
        raise InputError("The structure has no atoms.")
    _check_numbers(atoms, elements)
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(1))
    if len(bad):
        raise InputError(f"Atom {bad[0]} ({atoms.symbols[bad[0]]}) has a position that is NaN or infinite.")
    _check_cell(atoms)
    _check_state("charge", atoms.info.get("charge", 0), charges)
    if spins and "spin" in atoms.info:
        _check_state("spin", atoms.info["spin"], spins)
    if len(atoms) > 1 and not atoms.pbc.any():
        _check_electrons(atoms, spins)


def has_volume(atoms: Atoms) -> bool:
    """Whether three independent cell vectors enclose a volume that a stress can refer to."""
    return not _dependent(np.asarray(atoms.cell))


def check_distances(graph: AtomGraph) -> None:
    """Refuse a graph in which two atoms, or an atom and an image, coincide.

    Raises:
        InputError: naming the closest two atoms.
    """
    if graph.n_edges == 0:
        return
    distance = edge_vectors(graph, graph.positions, graph.cell).square().sum(-1).sqrt()
    closest = int(torch.argmin(distance))
    if distance[closest] < COINCIDENT:
        first, second = graph.edge_index[:, closest].tolist()
        symbols = [chemical_symbols[int(graph.numbers[atom])] for atom in (first, second)]
        raise InputError(
            f"Atoms {first} ({symbols[0]}) and {second} ({symbols[1]}) coincide: they are "
            f"{distance[closest]:.3g} Å apart. Remove one, or check positions and cell."
        )


def _check_numbers(atoms: Atoms, elements: Collection[int]) -> None:
    for index, number in enumerate(atoms.numbers):
        if number not in elements:
            known = " ".join(chemical_symbols[z] for z in sorted(elements))
            name = chemical_symbols[number] if 0 <= number < len(chemical_symbols) else f"of atomic number {number}"
            raise InputError(f"Atom {index} is {name}, which this potential does not know; it knows: {known}.")


def _check_cell(atoms: Atoms) -> None:
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all():
        raise InputError("The cell has entries that are NaN or infinite.")
    for axis, name in enumerate("abc"):
        if atoms.pbc[axis] and not cell[axis].any():
            raise InputError(f"pbc is set along {name}, but that cell vector is zero: set a cell or switch pbc off.")
    periodic = cell[atoms.pbc]
    if not len(periodic):
        return
    if _dependent(periodic):
        raise InputError("The cell is singular: its vectors are linearly dependent.")
    thickness = 1 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
    if thickness.min() < COINCIDENT:
        raise InputError(f"The cell is too thin: lattice planes are {thickness.min():.3g} Å apart.")


def _dependent(vectors: np.ndarray) -> bool:
    """Whether vectors (M, 3) of any lengths are linearly dependent to about 1e-6."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return not lengths.all() or bool(np.linalg.svd(vectors / lengths, compute_uv=False)[-1] < 1e-6)


def _check_electrons(atoms: Atoms, spins: Collection[int]) -> None:
    """A molecule (not a free atom, whose energy is a reference) needs a multiplicity that its electrons allow."""
    electrons = int(atoms.numbers.sum()) - round(float(atoms.info.get("charge", 0)))
    known = [int(atoms.info["spin"])] if spins and "spin" in atoms.info else list(spins)
    if known and all((electrons - spin) % 2 == 0 for spin in known):
        raise InputError(
            f"{atoms.symbols} with charge {atoms.info.get('charge', 0)} has {electrons} electrons, which do not fit a "
            f"multiplicity of {' or '.join(map(str, sorted(known)))}: this potential does not know such molecules."
        )


def _check_state(name: str, value: object, known: Collection[int]) -> None:
    try:
        valid = float(value) in known  # type: ignore[arg-type]
    except (TypeError, ValueError):
        valid = False
    if not valid:
        allowed = ", ".join(map(str, sorted(known)))
        asked = f"The multiplicity, atoms.info['{name}']," if name == "spin" else f"atoms.info['{name}']"
        raise InputError(f"{asked} is {value!r}; this potential was trained for {name} {allowed} only.")
