"""Are the energy curves of two atoms smooth, and do the atoms repel each other at short distance?

Every pair of the potential's elements, from 0.3 Å to 1 Å beyond the cutoff, in double precision. The atoms have no
meaning as molecules (many have an odd number of electrons): the question is about the shape of the curves.

- Smooth: where energy or force look most like a jump, in eight intervals of 0.01 Å, one looks ten times closer, and
  again, down to 1e-10 Å; what is left of the change, divided by one plus the value, must be below 1e-6.
- Repulsive: the force pushes the atoms apart everywhere below 0.6 sums of covalent radii (no bond is that short), and
  at 0.3 Å the energy is above that of the separated atoms.

The number of minima tells of waves that no pair of atoms has; it is shown, not judged. The picture shows all curves.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer, progress
from _measures import count_minima, largest_jump, repulsive_below
from _work import work_folder
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from matplotlib.figure import Figure

from ase_geomol import GeoMolCalculator

MODEL = "geomformer-organic"
SETTINGS = {"from Å": 0.3, "beyond the cutoff Å": 1.0, "step Å": 0.01, "jump": 1e-6, "short / radii": 0.6}
NO_CUTOFF = 10.0  # Å, to look at where a potential has no cutoff


def run(smoke: bool, model: str) -> Answer:
    """One row a pair, then how many passed."""
    calculator = GeoMolCalculator(model, dtype="float64")
    end = (calculator.cutoff or NO_CUTOFF) + SETTINGS["beyond the cutoff Å"]
    distances = np.arange(SETTINGS["from Å"], end, SETTINGS["step Å"])
    elements = sorted(calculator.elements)[: 2 if smoke else None]
    rows, curves = [], {}
    for pair in progress(combinations_with_replacement(elements, 2), "dimers"):
        energies, forces = curve(distances, calculator, pair)
        curves[pair] = energies - energies[-1]
        rows.append(_row(partial(curve, calculator=calculator, pair=pair), pair, distances, energies, forces))
    with work_folder("dimers", SETTINGS, smoke, model) as folder:
        _draw(distances, curves, elements, folder / "dimers.png")
    passed: dict[str, float | None] = {
        f"{name} pairs of {len(rows)}": sum(row[name] == "yes" for row in rows) for name in ("smooth", "repulsive")
    }
    return Answer(rows, passed)


def curve(distances: np.ndarray, calculator: GeoMolCalculator, pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV) and radial force (eV/Å, positive pushes apart) of one pair at all distances.

    All are computed at once, as dimers that are far from each other in one periodic box.
    """
    side = int(np.ceil(len(distances) ** (1 / 3)))
    spacing = distances.max() + 2 * (calculator.cutoff or 5 * NO_CUTOFF)
    sites = spacing * np.indices((side,) * 3).reshape(3, -1).T[: len(distances)]
    positions = np.repeat(sites, 2, axis=0)
    positions[1::2, 0] += distances
    box = Atoms(np.tile(pair, len(distances)), positions, cell=[side * spacing] * 3, pbc=True, calculator=calculator)
    return box.get_potential_energies().reshape(-1, 2).sum(1), box.get_forces()[1::2, 0]


def _row(both, pair: tuple[int, int], distances: np.ndarray, energies: np.ndarray, forces: np.ndarray) -> Row:
    jumps = [
        largest_jump(lambda where, part=part: both(where)[part], distances, values)
        for part, values in enumerate((energies, forces))
    ]
    limit = SETTINGS["short / radii"] * sum(covalent_radii[z] for z in pair)
    wall, deepest = energies[0] - energies[-1], int(np.argmin(energies))
    return {
        "pair": "-".join(chemical_symbols[z] for z in pair),
        "jump of the energy": jumps[0],
        "jump of the force": jumps[1],
        "at 0.3 Å eV": float(wall),
        "minimum eV": float(energies[deepest] - energies[-1]),
        "minimum Å": float(distances[deepest]),
        "minima": count_minima(forces),
        "smooth": "yes" if max(jumps) < SETTINGS["jump"] else "NO",
        "repulsive": "yes" if wall > 0 and repulsive_below(distances, forces, limit) else "NO",
    }


def _draw(distances: np.ndarray, curves: dict, elements: list[int], path: Path) -> None:
    """A triangle of curves, all with the same axes."""
    count = len(elements)
    figure = Figure(figsize=(1.5 * count + 1, 1.3 * count + 1), layout="constrained")
    for (first, second), energies in curves.items():
        row, column = elements.index(second), elements.index(first)
        axes = figure.add_subplot(count, count, row * count + column + 1)
        axes.plot(distances, energies, "C0-", lw=1)
        axes.axhline(0, color="0.8", lw=0.6, zorder=0)
        axes.axvline(float(covalent_radii[first] + covalent_radii[second]), color="0.8", lw=0.6, zorder=0)
        axes.set(ylim=(-12, 20), xlim=(0, distances[-1]))
        axes.tick_params(labelsize=6, labelleft=column == 0, labelbottom=row == count - 1)
        axes.set_title(f"{chemical_symbols[first]}-{chemical_symbols[second]}", fontsize=7, y=0.8)
    figure.supxlabel("Distance (Å); the gray line is the sum of covalent radii")
    figure.supylabel("Energy − separated atoms (eV)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, settings=SETTINGS)
