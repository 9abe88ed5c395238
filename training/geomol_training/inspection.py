"""What is in labelled data, and what smells wrong about it, before anything is learned from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, GPa, Hartree, kcal, kJ, mol

from .frames import Frames, way
from .references import composition, fit_references

NEAR = 0.2
"""Å; between frames whose atoms moved less than this, forces tell the change of the energy."""
FEWEST_PAIRS = 5
OUTLIER = 8.0
"""Robust deviations (1.4826 times the median distance from the median) from which on a frame is named."""
SHOWN = 5
RATIOS = {
    "energies in kcal/mol, forces in eV/Å": mol / kcal,
    "energies in kJ/mol, forces in eV/Å": mol / kJ,
    "energies in Hartree, forces in eV/Å": 1 / Hartree,
    "energies in eV, forces in kcal/mol/Å": kcal / mol,
    "energies in eV, forces in kJ/mol/Å": kJ / mol,
    "energies in eV, forces in Hartree/Bohr": Hartree / Bohr,
    "energies in Hartree and forces in Hartree/Bohr, positions in Å": 1 / Bohr,
    "forces are gradients: of the wrong sign": -1.0,
}
"""Units, and by how many times energies then change more than forces say."""
_HARTREE = "0.5 2.904 7.478 14.667 24.654 37.845 54.589 75.067 99.734 128.938"
_HARTREE += " 162.255 200.053 242.346 289.359 341.259 398.110 460.148 527.540"
FREE_ATOMS = tuple(map(float, _HARTREE.split()))
"""Energies of the atoms from H to Ar with all electrons, nonrelativistic and without their sign (Hartree; Chakravorty
et al. 1993). Bonds and methods change them by some percent at most."""
TOTAL_ENERGIES = {"Hartree": 1.0, "kcal/mol": Hartree / (kcal / mol), "kJ/mol": Hartree / (kJ / mol)}
STRONG = 10.0
"""eV/Å; rMD17's molecules at 500 K have a median force of 1.5 to 1.8."""
STIFF = 1.0
"""eV/Å³, 160 GPa."""


class Inspection(NamedTuple):
    """What was found.

    Attributes:
        counts: frames, atoms, groups, frames with forces, stresses, cells, and so on.
        elements: how many atoms of each.
        ranges: smallest, median and largest of quantities, with their units.
        warnings: what smells wrong, each a sentence.
        unseen: what could not be looked at, each a sentence.
    """

    counts: dict[str, int]
    elements: dict[str, int]
    ranges: dict[str, tuple[float, float, float]]
    warnings: list[str]
    unseen: list[str]


def inspect(frames: Frames) -> Inspection:
    """Look at all frames."""
    known = fit_references(frames)
    elements, counts = composition(frames)
    left = (frames.energy - counts @ np.array([known[int(z)] for z in elements])) / frames.n_atoms
    labelled = np.repeat(frames.has_forces, frames.n_atoms)
    lengths = np.linalg.norm(frames.forces, axis=1)
    ranges = {
        "atoms in a frame": _range(frames.n_atoms),
        "energy − references (eV/atom)": _range(left),
        "length of a force (eV/Å)": _range(lengths[labelled]),
        "stress component (eV/Å³)": _range(frames.stress[frames.has_stress].ravel()),
    }
    change, work = _successive(frames)
    comparable = len(change) >= FEWEST_PAIRS and bool(np.any(work))
    warnings = [
        *_outliers(frames, left, lengths),
        *_duplicates(frames),
        *_total_energies(frames, elements, counts),
        *_strength(frames, lengths),
        *(_consistency(change, work) if comparable else []),
        *_states(frames),
    ]
    return Inspection(
        counts={
            "frames": len(frames),
            "atoms": len(frames.numbers),
            "groups": len(np.unique(frames.group)),
            "with forces": int(frames.has_forces.sum()),
            "with a stress": int(frames.has_stress.sum()),
            "periodic": int(frames.pbc.any(1).sum()),
            "with fixed atoms": int((np.add.reduceat(frames.fixed.astype(int), frames.offsets[:-1]) > 0).sum()),
            "with a relaxed structure": int(frames.has_relaxed.sum()),
        },
        elements={chemical_symbols[z]: int(counts[:, i].sum()) for i, z in enumerate(elements)},
        ranges={name: found for name, found in ranges.items() if found is not None},
        warnings=warnings,
        unseen=[] if comparable else [_why_not(frames, len(change))],
    )


def _range(values: np.ndarray) -> tuple[float, float, float] | None:
    return (float(values.min()), float(np.median(values)), float(values.max())) if len(values) else None


def _outliers(frames: Frames, left: np.ndarray, lengths: np.ndarray) -> list[str]:
    strongest = np.maximum.reduceat(lengths, frames.offsets[:-1])
    found = []
    for what, values in (("energy per atom", left), ("largest force", np.log(strongest + 1e-3))):
        middle = np.median(values)
        deviation = 1.4826 * np.median(np.abs(values - middle))
        far = np.flatnonzero(np.abs(values - middle) > OUTLIER * max(deviation, 1e-6))
        if len(far) and len(far) < len(frames) / 4:
            worst = far[np.argsort(-np.abs(values[far] - middle))][:SHOWN]
            found.append(
                f"{len(far)} frames have an unusual {what}, such as {', '.join(_place(frames, f) for f in worst)} "
                "(counted from 0, without bad rows): look at them, or leave them out with data.max_force."
            )
    return found


def _place(frames: Frames, frame: int) -> str:
    """Where a frame is found: its number in its file or trajectory, and its name, if it has one."""
    trajectory, name = frames.trajectory_names[frames.trajectory[frame]], frames.name[frame]
    number = int((frames.trajectory[:frame] == frames.trajectory[frame]).sum())
    return f"frame {number}" + (f" of {trajectory}" if trajectory else "") + (f" (called {name})" if name else "")


def digests(frames: Frames) -> Iterator[bytes]:
    """One for each structure, the same for those that are alike once rounded to 1e-4 Å, in whatever order their atoms
    are.
    """
    for start, end, cell in zip(frames.offsets[:-1], frames.offsets[1:], frames.cell, strict=True):
        content = np.column_stack([frames.numbers[start:end], frames.positions[start:end].round(4) + 0.0])  # no -0
        order = np.lexsort(content.T[::-1])
        yield hashlib.sha256(content[order].tobytes() + (cell.round(4) + 0.0).tobytes()).digest()


def _duplicates(frames: Frames) -> list[str]:
    repeated = sum(count - 1 for count in Counter(digests(frames)).values())
    if not repeated:
        return []
    return [
        f"{repeated} frames repeat others to 1e-4 Å: parts for learning and testing may share them unless they are "
        "divided by group."
    ]


def _total_energies(frames: Frames, elements: np.ndarray, counts: np.ndarray) -> list[str]:
    """Units of total energies by their size."""
    if elements.max() > len(FREE_ATOMS):
        return []
    atoms = counts @ np.array([FREE_ATOMS[z - 1] for z in elements])
    heavy = atoms > counts.sum(1)  # of hydrogen alone, bonds are no small part of the energy
    times = float(np.median(-frames.energy[heavy] / atoms[heavy])) if heavy.any() else 0.0
    near = [unit for unit, ratio in TOTAL_ENERGIES.items() if abs(times / ratio - 1) < 0.03]
    return [f"Energies look like total ones in {unit}, all electrons counted: give them in eV." for unit in near]


def _strength(frames: Frames, lengths: np.ndarray) -> list[str]:
    """Units of forces and stresses, where they are larger than most structures could bear."""
    found = []
    labelled = lengths[np.repeat(frames.has_forces, frames.n_atoms)]
    if len(labelled) and (force := float(np.median(labelled))) > STRONG:
        found.append(
            f"The median force is {force:.3g} eV/Å, and that of molecules at 500 K below 2: are they in kcal/mol/Å or "
            "kJ/mol/Å?"
        )
    pressures = np.abs(np.trace(frames.stress[frames.has_stress], axis1=1, axis2=2)) / 3
    if len(pressures) and (pressure := float(np.median(pressures))) > STIFF:
        found.append(
            f"The median pressure is {pressure / GPa:,.0f} GPa, if stresses are in eV/Å³: are they in GPa or kbar?"
        )
    return found


def _successive(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """How energies (eV) change between frames that follow each other closely, and the work that forces do there."""
    changes, works = [], []
    for frame in range(len(frames) - 1):
        first, last = (slice(frames.offsets[f], frames.offsets[f + 1]) for f in (frame, frame + 1))
        alike = all(kind[frame] == kind[frame + 1] for kind in (frames.group, frames.trajectory))
        if not alike or not frames.has_forces[frame : frame + 2].all():
            continue
        if not np.array_equal(frames.numbers[first], frames.numbers[last]):
            continue
        if np.abs(frames.cell[frame] - frames.cell[frame + 1]).max() > 1e-6:
            continue
        moved = way(frames.positions[first], frames.positions[last], frames.cell[frame], frames.pbc[frame])
        if 0 < np.abs(moved).max() < NEAR:
            works.append(-float(((frames.forces[first] + frames.forces[last]) / 2 * moved).sum()))
            changes.append(float(frames.energy[frame + 1] - frames.energy[frame]))
    return np.array(changes), np.array(works)


def _why_not(frames: Frames, pairs: int) -> str:
    """Why forces and energies cannot be compared."""
    if not frames.has_forces.any():
        return "There are no forces, with which energies could be compared."
    return (
        f"Whether energies change as forces say could not be seen: {pairs} pairs of frames follow each other closely "
        f"(the same atoms and cell, moved by less than {NEAR} Å), and it takes {FEWEST_PAIRS} that do not stand still."
    )


def _consistency(change: np.ndarray, work: np.ndarray) -> list[str]:
    """Compare changes of the energy along trajectories with the work of the forces."""
    slope = float(change @ work / (work @ work))
    rest = float(np.abs(change - slope * work).sum() / np.abs(change).sum()) if np.any(change) else 1.0
    if rest > 0.5:
        return [
            f"Energies of {len(change)} pairs of successive frames do not change as their forces say: they may be of "
            "two methods, of other frames, or contain what forces do not (an entropy, a constraint)."
        ]
    if 0.8 < slope < 1.25:
        return []
    near = {words: abs(np.log(abs(slope / ratio))) for words, ratio in RATIOS.items() if slope / ratio > 0}
    words = min(near, key=lambda name: near[name]) if near else ""
    guess = f": {words}?" if near and near[words] < 0.1 else "."
    return [f"Energies change {slope:.4g} times as much as forces say, in {len(change)} pairs of frames{guess}"]


def _states(frames: Frames) -> list[str]:
    charges, spins = np.unique(frames.charge), np.unique(frames.spin)
    if len(charges) == 1 and len(spins) == 1:
        return []
    return [
        f"There are charges {', '.join(map(str, charges))} and spins {', '.join(map(str, spins))}: no model reads "
        "them, so train on one of each."
    ]
