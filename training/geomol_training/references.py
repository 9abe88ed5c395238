"""Reference energies and the unit of energy: what the network need not learn."""

from __future__ import annotations

import dataclasses

import numpy as np

from .frames import Frames


def composition(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Elements (Z,) that occur, and how many atoms of each are in each frame (F, Z)."""
    elements, kind = np.unique(frames.numbers, return_inverse=True)
    counts = np.zeros((len(frames), len(elements)))
    np.add.at(counts, (np.repeat(np.arange(len(frames)), frames.n_atoms), kind), 1.0)
    return elements, counts


def fit_references(frames: Frames, repulsion: np.ndarray | float = 0.0) -> dict[int, float]:
    """Energy (eV) of each element by least squares: ``E - E_repulsion = sum_i e_Z(i)``.

    Where compositions do not tell elements apart (one molecule only), it is the solution that is nearest to the mean
    energy of all atoms. ``repulsion`` (F,) in eV is what the potential adds by itself.
    """
    left = frames.energy - repulsion
    mean = float(left.sum() / frames.n_atoms.sum())
    change = change_of_references(frames, left - mean * frames.n_atoms)
    return {number: mean + energy for number, energy in change.items()}


def mean_shares(frames: Frames, repulsion: np.ndarray | float = 0.0) -> dict[int, float]:
    """Mean share (eV) of each element's atoms in the energy, as the labels divide it, in frames that have such shares.

    ``repulsion`` as in `fit_references`, in equal shares. Elements that have none get zero.
    """
    added = np.broadcast_to(repulsion, len(frames)) / frames.n_atoms
    known = np.repeat(frames.has_energies, frames.n_atoms)
    left = (frames.energies - np.repeat(added, frames.n_atoms))[known]
    elements, kind = np.unique(frames.numbers, return_inverse=True)
    count = np.bincount(kind[known], minlength=len(elements))
    means = np.bincount(kind[known], left, minlength=len(elements)) / np.maximum(count, 1)
    return {int(number): float(energy) for number, energy in zip(elements, means, strict=True)}


def change_of_references(frames: Frames, left: np.ndarray) -> dict[int, float]:
    """Change (eV) of each element's energy that takes ``left`` (F,) away, what labels have beyond predictions.

    Of all least-squares solutions that of least norm; elements that do not occur keep their energies.
    """
    elements, counts = composition(frames)
    solution = np.linalg.lstsq(counts, left, rcond=None)[0]
    return {int(number): float(energy) for number, energy in zip(elements, solution, strict=True)}


def shifted(frames: Frames, change: dict[int, float]) -> Frames:
    """The same frames with energies moved along with this change (eV) of the reference energies."""
    elements, counts = composition(frames)
    shift = counts @ np.array([change.get(int(number), 0.0) for number in elements])
    shares = np.array([change.get(int(number), 0.0) for number in frames.numbers])
    return dataclasses.replace(frames, energy=frames.energy + shift, energies=frames.energies + shares)


def force_scale(frames: Frames, references: dict[int, float], repulsion: np.ndarray | float = 0.0) -> float:
    """Energy (eV) that one unit of the network's output stands for.

    It is the RMS force component (in eV/Å): then a network of order one that varies over 1 Å has the right
    slopes from the start, for any method and any units of the original data. Without forces: the standard
    deviation per atom of what the references leave.
    """
    atoms = np.repeat(frames.has_forces, frames.n_atoms)
    if atoms.any():
        scale = float(np.sqrt(np.mean(frames.forces[atoms] ** 2)))
    else:
        elements, counts = composition(frames)
        known = counts @ np.array([references[int(number)] for number in elements])
        scale = float(np.std((frames.energy - repulsion - known) / frames.n_atoms))
    return scale if scale > 1e-6 else 1.0
