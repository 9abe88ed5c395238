"""What the quality benchmarks measure: functions of structures and curves, without files and potentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

BONDED, BROKEN = 1.2, 1.5
"""Atoms closer than this many sums of covalent radii are bonded; a bond longer than this many is broken."""
BONDS = {"bond up to / radii": BONDED, "broken beyond / radii": BROKEN}
"""Both for the settings of a benchmark: rows that were made with others do not count."""
Curve = Callable[[np.ndarray], np.ndarray]


def rmsd(first: Atoms, second: Atoms) -> float:
    """Root mean square distance (Å) of equal atoms after the best rotation and translation."""
    target, moved = first.copy(), second.copy()
    minimize_rotation_and_translation(target, moved)
    return float(np.sqrt(((target.positions - moved.positions) ** 2).sum(1).mean()))


def bond_stretches(start: Atoms, frames: Sequence[Atoms]) -> np.ndarray:
    """Largest length of each bond of ``start`` in any frame, in sums of its covalent radii.

    The molecules of a periodic structure must be whole, not folded back into the cell.
    """
    first, second = neighbor_list("ij", start, BONDED * covalent_radii[start.numbers])
    first, second = first[first < second], second[first < second]
    radii = covalent_radii[start.numbers[first]] + covalent_radii[start.numbers[second]]
    lengths = [np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1) for atoms in frames]
    return np.max(lengths, axis=0) / radii


def bonds_row(start: Atoms, frames: Sequence[Atoms]) -> dict[str, float | int]:
    """How far bonds were stretched, as columns of a row."""
    stretches = bond_stretches(start, frames)
    return {
        "longest bond / radii": float(stretches.max(initial=0.0)),
        "broken bonds": int((stretches > BROKEN).sum()),
    }


def drift(time: np.ndarray, energy: np.ndarray) -> tuple[float, float]:
    """Slope of the straight line through ``energy`` over ``time``, and the largest distance from that line."""
    line = np.polynomial.Polynomial.fit(time, energy, 1)
    return float(line.deriv()(time[0])), float(np.abs(energy - line(time)).max())


def profile_errors(ours: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Mean absolute error of a profile, both counted from their own minimum, both from their own mean; barrier."""
    from_minimum = (ours - ours.min()) - (reference - reference.min())
    from_mean = (ours - ours.mean()) - (reference - reference.mean())
    return {
        "minimum": float(np.abs(from_minimum).mean()),
        "mean": float(np.abs(from_mean).mean()),
        "barrier": float(np.ptp(ours) - np.ptp(reference)),
    }


def suspicious_intervals(values: np.ndarray, count: int) -> np.ndarray:
    """Where a curve that is sampled at even distances may jump: indices of the left ends, most suspicious first.

    The fifth differences of a smooth curve are tiny, and similar from one interval to the next: each is compared with
    the median of the 21 around it. The two intervals at either end cannot be judged.
    """
    differences = np.abs(np.diff(values, 5)) / 6  # the fifth difference of a step of height h is 6 h in its middle
    around = np.lib.stride_tricks.sliding_window_view(np.pad(differences, 10, mode="reflect"), 21)
    floor = 1e-12 * (1 + np.abs(values[2:-3]))
    return 2 + np.argsort(-(differences / (np.median(around, axis=1) + floor)), kind="stable")[:count]


def remaining_jumps(curve: Curve, low: np.ndarray, high: np.ndarray, zooms: int = 8) -> np.ndarray:
    """What is left of the change of ``curve`` over each interval when one looks ten times closer, and closer again.

    Each time the most suspicious tenth is kept: of a continuous curve nothing is left in the end, of a jump all.
    Relative to one plus the size of the curve there.
    """
    left = right = np.zeros_like(low)
    row = np.arange(len(low))
    for _ in range(zooms):
        places = low[:, None] + (high - low)[:, None] * np.arange(-10, 21) / 10
        values = curve(places.ravel()).reshape(places.shape)
        best = np.array([suspicious_intervals(around, 1)[0] for around in values])
        low, high = places[row, best], places[row, best + 1]
        left, right = values[row, best], values[row, best + 1]
    return np.abs(right - left) / (1 + np.abs(left))


def largest_jump(curve: Curve, distances: np.ndarray, values: np.ndarray, count: int = 8) -> float:
    """The largest jump found in the ``count`` most suspicious intervals of a sampled curve (relative, see above)."""
    index = suspicious_intervals(values, count)
    return float(remaining_jumps(curve, distances[index], distances[index + 1]).max())


def repulsive_below(distances: np.ndarray, forces: np.ndarray, limit: float) -> bool:
    """Whether the radial force pushes apart at every distance up to ``limit``."""
    return bool((forces[distances <= limit] > 0).all())


def count_minima(forces: np.ndarray, noise: float = 0.01) -> int:
    """How often a radial force turns from pushing apart to pulling together; weaker ones (eV/Å) are not looked at."""
    pushes = forces[np.abs(forces) > noise] > 0
    return int((pushes[:-1] & ~pushes[1:]).sum())


def pack(molecule: Atoms, per_side: int, spacing: float, seed: int) -> Atoms:
    """A periodic cube of ``per_side``³ copies on a grid (Å), turned so that they keep away from each other.

    Each copy takes the best of some random orientations. The molecules stay whole across the borders of the cell.
    """
    random = np.random.default_rng(seed)
    body = molecule.positions - molecule.positions.mean(0)
    length = per_side * spacing
    placed = np.empty((0, 3))
    for site in spacing * np.indices((per_side,) * 3).reshape(3, -1).T:
        turned = body @ Rotation.from_quat(random.normal(size=(30, 4))).as_matrix() + site
        placed = np.concatenate([placed, max(turned, key=lambda copy: _clearance(copy, placed, length))])
    return Atoms(np.tile(molecule.numbers, per_side**3), placed, cell=[length] * 3, pbc=True)


def _clearance(copy: np.ndarray, placed: np.ndarray, length: float) -> float:
    """Smallest distance between two sets of atoms, across the borders of the cube too."""
    apart = copy[:, None] - placed
    apart -= length * np.round(apart / length)
    return float(np.sqrt((apart**2).sum(-1)).min(initial=np.inf))
