"""Root-mean-square distances between conformers of one molecule, whatever the labels of equivalent atoms."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ._rdkit import Chem, rdMolAlign
from .molecules import ORDER_CODES, Molecule

MOST_MATCHES, FEW_MATCHES = 10_000, 1000
"""Relabellings that are tried, so that no pair takes long: where distances are measured, and elsewhere."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Which atoms are compared, and how they may be relabelled without changing the molecule.

    Attributes:
        atoms: (A,) indices of the compared atoms.
        maps: (K, A), for each relabelling the place in ``atoms`` that takes each place.
        complete: False where there are more relabellings; then distances are upper bounds.
    """

    atoms: np.ndarray
    maps: np.ndarray
    complete: bool


def symmetry(molecule: Molecule, *, polar: bool = False, most: int = MOST_MATCHES) -> Symmetry:
    """Find the relabellings of a molecule's heavy atoms, as RDKit's ``GetBestRMS`` does.

    The two oxygens of a carboxylate, of a nitro group and of a carboxylic acid without its hydrogen count as
    equivalent. A molecule with fewer than two heavy atoms is compared with its hydrogens.

    Args:
        molecule: of any size.
        polar: compare hydrogens that are not on carbon too.
        most: at most this many relabellings.
    """
    atoms = _compared(molecule, polar)
    graph = _plain_graph(molecule, atoms)
    options = Chem.SubstructMatchParameters()
    options.uniquify = False
    options.maxMatches = most + 1
    maps = np.array(graph.GetSubstructMatches(graph, options), dtype=int).reshape(-1, len(atoms))
    return Symmetry(atoms, maps[:most], len(maps) <= most)


def rmsd_matrix(symmetric: Symmetry, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances (P, R) in Å between conformers ``first`` (P, N, 3) and ``second`` (R, N, 3).

    The least root-mean-square distance over proper rotations, shifts and relabellings.
    """
    rows = (list(rmsd_to_each(symmetric, conformer, second)) for conformer in first)
    return np.array(list(rows)).reshape(len(first), len(second))


def rmsd_to_each(symmetric: Symmetry, conformer: np.ndarray, others: np.ndarray) -> Iterator[float]:
    """Distances in Å from a conformer (N, 3) to each of ``others`` (R, N, 3), computed as they are asked for."""
    if not len(others):
        return
    graph, options = _loaded(symmetric, [conformer, *others])
    for place in range(len(others)):
        yield rdMolAlign.GetBestRMS(graph, graph, options, 0, 1 + place)


def rmsd_of_pairs(symmetric: Symmetry, positions: np.ndarray, deadline: float = np.inf) -> np.ndarray:
    """Distances (P(P-1)/2,) in Å within conformers (P, N, 3), in SciPy's condensed order: 01, 02, … 12, ….

    Raises TimeoutError where the deadline (``time.monotonic``) passes.
    """
    graph, options = _loaded(symmetric, list(positions))
    found = []
    for first, second in combinations(range(len(positions)), 2):
        if time.monotonic() > deadline:
            raise TimeoutError
        found.append(rdMolAlign.GetBestRMS(graph, graph, options, first, second))
    return np.array(found)


def rmsd(symmetric: Symmetry, first: np.ndarray, second: np.ndarray) -> float:
    """Distance in Å between two conformers (N, 3)."""
    return float(next(rmsd_to_each(symmetric, first, second[None])))


def aligned(symmetric: Symmetry, positions: np.ndarray, reference: np.ndarray, deadline: float = np.inf) -> np.ndarray:
    """Conformers (P, N, 3), shifted and rotated onto ``reference`` (N, 3) by their best relabelling.

    Labels stay as they are. Raises TimeoutError where the deadline (``time.monotonic``) passes.
    """
    graph, options = _loaded(symmetric, [*positions, reference])
    moved = np.empty_like(positions)
    for place, conformer in enumerate(positions):
        if time.monotonic() > deadline:
            raise TimeoutError
        _, transform, _ = rdMolAlign.GetBestAlignmentTransform(graph, graph, options, place, len(positions))
        moved[place] = conformer @ transform[:3, :3].T + transform[:3, 3]
    return moved


def _compared(molecule: Molecule, polar: bool) -> np.ndarray:
    heavy = molecule.numbers > 1
    if heavy.sum() < 2:
        return np.arange(len(molecule))
    if polar:
        for first, second, _ in molecule.bonds:
            for hydrogen, other in ((first, second), (second, first)):
                heavy[hydrogen] |= molecule.numbers[hydrogen] == 1 and molecule.numbers[other] not in (1, 6)
    return np.flatnonzero(heavy)


def _plain_graph(molecule: Molecule, atoms: np.ndarray) -> Chem.Mol:
    """The compared atoms and their bonds, with equal bonds to equivalent ends of a delocalised group."""
    orders = {code: order for order, code in ORDER_CODES.items()}
    places = {int(atom): place for place, atom in enumerate(atoms)}
    bonds = [(places[i], places[j], code) for i, j, code in molecule.bonds.tolist() if i in places and j in places]
    ends = _delocalised_ends(molecule.numbers[atoms], bonds)
    graph = Chem.RWMol()
    for place, index in enumerate(atoms.tolist()):
        atom = Chem.Atom(int(molecule.numbers[index]))
        atom.SetFormalCharge(0 if place in ends else int(molecule.formal_charges[index]))
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for first, second, code in bonds:
        graph.AddBond(first, second, orders[1 if {first, second} & ends else code])
    return graph.GetMol()


def _delocalised_ends(numbers: np.ndarray, bonds: Sequence[tuple[int, int, int]]) -> set[int]:
    """Terminal N and O that share a neighbour with another one, one by a single and one by a double bond."""
    degree = np.bincount([end for bond in bonds for end in bond[:2]], minlength=len(numbers))
    around: dict[int, list[tuple[int, int]]] = {}
    for first, second, order in bonds:
        for end, middle in ((first, second), (second, first)):
            if degree[end] == 1 and numbers[end] in (7, 8) and order in (1, 2):
                around.setdefault(middle, []).append((end, order))
    groups = (group for group in around.values() if {order for _, order in group} == {1, 2})
    return {end for group in groups for end, _ in group}


def _loaded(symmetric: Symmetry, conformers: Sequence[np.ndarray]) -> tuple[Chem.Mol, rdMolAlign.BestAlignmentParams]:
    """A nameless molecule with the compared atoms of these conformers, numbered from 0, and how to compare them."""
    points = Chem.RWMol()
    for _ in symmetric.atoms:
        points.AddAtom(Chem.Atom(0))
    for index, positions in enumerate(conformers):
        conformer = Chem.Conformer(len(symmetric.atoms))
        conformer.SetPositions(np.ascontiguousarray(positions[symmetric.atoms], dtype=float))
        conformer.SetId(index)
        points.AddConformer(conformer)
    options = rdMolAlign.BestAlignmentParams()
    options.map = [list(enumerate(match)) for match in symmetric.maps.tolist()]
    return points.GetMol(), options
