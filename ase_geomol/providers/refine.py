"""What is done with structures: checks, ranking, removal of duplicates, choice of representatives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ase import Atoms, units
from scipy.cluster.hierarchy import cut_tree, ward
from scipy.spatial.distance import squareform

from .geometry import bond_errors, clashes
from .molecules import Molecule, parse
from .rmsd import FEW_MATCHES, Symmetry, aligned, rmsd_of_pairs, rmsd_to_each, symmetry
from .stereo import stereo_errors

CHECKS: dict[str, tuple[str, Callable[[Molecule, np.ndarray], list[str]]]] = {
    "stereo": ("wrong stereochemistry", stereo_errors),
    "bonds": ("broken or new bonds", bond_errors),
    "clashes": ("clashing atoms", clashes),
}
"""The reason for which a structure is refused, and the function that finds it."""
TEMPERATURE = 298.15
"""K, of Boltzmann weights."""
TO_LOOK_AT = 20.0
"""s, for what only makes a table or picture nicer."""


def refusal(molecule: Molecule, positions: np.ndarray, checks: Sequence[str]) -> str | None:
    """The reason for which positions (N, 3) are no structure of the molecule, or None."""
    if not np.isfinite(positions).all():
        return "positions that are not finite"
    for name in checks:
        reason, find = CHECKS[name]
        if find(molecule, positions):
            return reason
    return None


def weigh(structures: Sequence[Atoms]) -> None:
    """Write ``info["relative_energy"]`` (eV) and ``info["boltzmann_weight"]`` at 298.15 K, which sum to 1."""
    energies = np.array([atoms.get_potential_energy() for atoms in structures])
    relative = energies - energies.min()
    for atoms, energy, weight in zip(structures, relative, boltzmann_weights(energies), strict=True):
        atoms.info.update(relative_energy=float(energy), boltzmann_weight=float(weight))


def boltzmann_weights(energies: np.ndarray) -> np.ndarray:
    """Shares (K,), which sum to 1, of conformers with ``energies`` (K,) in eV at 298.15 K."""
    weights = np.exp((energies.min() - energies) / (units.kB * TEMPERATURE))
    return weights / weights.sum()


def clusters(symmetric: Symmetry, positions: np.ndarray, threshold: float, deadline: float = np.inf) -> np.ndarray:
    """Number (P,) of the first conformer that each of ``positions`` (P, N, 3) is nearer to than ``threshold`` (Å).

    Each conformer is compared with those that began a cluster before it. What the deadline leaves out gets -1.
    """
    labels = np.full(len(positions), -1)
    shapes = np.array([_shape(conformer[symmetric.atoms]) for conformer in positions])
    leaders: list[int] = []
    for index, conformer in enumerate(positions):
        bounds = np.linalg.norm(shapes[leaders] - shapes[index], axis=1)
        near = [leaders[place] for place in np.argsort(bounds) if bounds[place] < threshold]
        try:
            same = _first_below(threshold, rmsd_to_each(symmetric, conformer, positions[near]), deadline)
        except TimeoutError:
            break
        labels[index] = index if same is None else near[same]
        if same is None:
            leaders.append(index)
    return labels


def _first_below(threshold: float, distances: Iterator[float], deadline: float) -> int | None:
    """Place of the first of the distances that is below the threshold; raises TimeoutError when the deadline passes."""
    place = 0
    while time.monotonic() <= deadline:
        distance = next(distances, None)
        if distance is None or distance < threshold:
            return None if distance is None else place
        place += 1
    raise TimeoutError


def representatives(
    symmetric: Symmetry,
    positions: np.ndarray,
    count: int,
    deadline: float = np.inf,
    energies: np.ndarray | None = None,
) -> np.ndarray:
    """Indices (count,) of conformers that stand for ``positions`` (P, N, 3), in their order.

    Clusters by symmetric distances and Ward's criterion; of each the lowest by ``energies`` (P,), without these the
    one nearest all others in it.

    Raises TimeoutError where the deadline (``time.monotonic``) passes before all distances are known.
    """
    if count >= len(positions):
        return np.arange(len(positions))
    distances = rmsd_of_pairs(symmetric, positions, deadline)
    labels = cut_tree(ward(distances), n_clusters=count)[:, 0]
    squares = squareform(distances**2)
    chosen = []
    for label in range(count):
        members = np.flatnonzero(labels == label)
        away = squares[np.ix_(members, members)].sum(1)
        chosen.append(members[(away if energies is None else energies[members]).argmin()])
    return np.sort(chosen)


def _shape(points: np.ndarray) -> np.ndarray:
    """Singular values (3,) of centred points (A, 3) over √A: their distance is a lower bound of the RMSD."""
    values = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return np.pad(values, (0, 3 - len(values))) / np.sqrt(len(points))


def superimposed(structures: Sequence[Atoms]) -> np.ndarray:
    """Positions (P, N, 3) of conformers with ``info["bonds"]``, laid onto the first of them by their heavy atoms.

    As they are where that would take longer than `TO_LOOK_AT`.
    """
    positions = np.array([atoms.positions for atoms in structures])
    symmetric = symmetry(parse(structures[0]), most=FEW_MATCHES)
    try:
        return aligned(symmetric, positions, positions[0], time.monotonic() + TO_LOOK_AT)
    except TimeoutError:
        return positions


def families(structures: Sequence[Atoms], threshold: float) -> np.ndarray:
    """Number (P,) from 0 of the family of each conformer: nearer than ``threshold`` (Å, heavy atoms) to its first.

    Those that `TO_LOOK_AT` leaves no time for get -1.
    """
    positions = np.array([atoms.positions for atoms in structures])
    symmetric = symmetry(parse(structures[0]), most=FEW_MATCHES)
    labels = clusters(symmetric, positions, threshold, time.monotonic() + TO_LOOK_AT)
    known = labels >= 0
    labels[known] = np.unique(labels[known], return_inverse=True)[1]
    return labels
