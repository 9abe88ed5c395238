"""Geometry without chemistry: bonds by distance, sides of a bond, rotations, contacts. Lengths in Å."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

BOND_TOLERANCE = 1.25


def bonds_of(atoms: Atoms) -> np.ndarray:
    """(N, N) bool: closer than 1.25 times the sum of covalent radii."""
    radii = covalent_radii[atoms.numbers]
    bonded = cdist(atoms.positions, atoms.positions) < BOND_TOLERANCE * (radii[:, None] + radii)
    np.fill_diagonal(bonded, False)
    return bonded


def side_of_bond(bonds: np.ndarray, i: int, j: int) -> np.ndarray | None:
    """Indices of the atoms on the side of ``j`` when the bond i-j is cut; None when it is in a ring."""
    cut = bonds.copy()
    cut[i, j] = cut[j, i] = False
    parts = connected_components(cut, directed=False)[1]
    return None if parts[i] == parts[j] else np.nonzero(parts == parts[j])[0]


def rotated(atoms: Atoms, side: np.ndarray, origin: np.ndarray, axis: np.ndarray, degrees: float) -> Atoms:
    """Copy of ``atoms`` with the atoms ``side`` turned about the axis through ``origin``."""
    turned = atoms.copy()
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis))
    turned.positions[side] = turn.apply(turned.positions[side] - origin) + origin
    return turned


def random_rotation(rng: np.random.Generator) -> Rotation:
    """A rotation drawn uniformly from all rotations."""
    quaternion = rng.normal(size=4)
    return Rotation.from_quat(quaternion / np.linalg.norm(quaternion))


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector drawn uniformly from the sphere."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def touch(first: np.ndarray, second: np.ndarray, direction: np.ndarray, contact: float) -> np.ndarray:
    """Shift along ``direction`` that brings ``second`` from outside to a ``contact`` (Å) with ``first``.

    For each pair of atoms, |r - t u| = contact has its outer root t = r·u + sqrt((r·u)² - r² + contact²);
    the largest one is where the first pair touches. (3,) in Å.
    """
    apart = (first[:, None] - second[None]).reshape(-1, 3)
    along = apart @ direction
    inside = along**2 - (apart**2).sum(axis=1) + contact**2
    reached = inside >= 0
    shift = (along[reached] + np.sqrt(inside[reached])).max() if reached.any() else 0.0
    return shift * direction


def open_direction(positions: np.ndarray, atom: int, rng: np.random.Generator) -> np.ndarray:
    """A random direction from ``atom`` that keeps well away from the other atoms."""
    others = np.delete(positions, atom, axis=0) - positions[atom]
    directions = rng.normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if not len(others):
        return directions[0]
    nearness = (directions @ (others / np.linalg.norm(others, axis=1, keepdims=True) ** 3).T).max(axis=1)
    return directions[int(nearness.argmin())]


def turn_onto(vector: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Rotation:
    """A rotation that maps unit ``vector`` onto unit ``target``, with a random turn about it."""
    base = Rotation.align_vectors(target[None], vector[None])[0]
    return Rotation.from_rotvec(rng.uniform(0, 2 * np.pi) * target) * base
