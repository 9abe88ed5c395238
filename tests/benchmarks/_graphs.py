"""What a molecular graph says of bonds and stereocentres, in whatever order it names them and their atoms."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ase_geomol.models.ditmc import MolecularGraph


def bonds_of(graph: MolecularGraph, names: np.ndarray | None = None) -> dict[tuple[int, ...], list[float]]:
    """Features of each directed bond; ``names`` (N,) are what the atoms are called (default: their places)."""
    ends = graph.bonds.numpy() if names is None else names[graph.bonds.numpy()]
    return {tuple(pair): row for pair, row in zip(ends.tolist(), graph.bond_features.tolist(), strict=True)}


def centres_of(graph: MolecularGraph, names: np.ndarray | None = None) -> list[tuple[list[int], bool]]:
    """Four atoms of each stereocentre, ascending, and whether it takes an odd number of exchanges to sort them.

    An even number leaves the sign of their volume as it is: the same centres with the same answers are of one hand.
    """
    centres = graph.centres.numpy() if names is None else names[graph.centres.numpy()]
    return sorted((sorted(four), sum(a > b for a, b in combinations(four, 2)) % 2 == 1) for four in centres.tolist())
