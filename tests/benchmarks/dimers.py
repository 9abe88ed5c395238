"""Are the energy curves of two atoms smooth, and do the atoms repel each other at short distance?

Every pair of the potential's elements, from 0.3 Å to 1 Å beyond the cutoff, in double precision. The atoms have no
meaning as molecules (many have an odd number of electrons): the question is about the shape of the curves.

- Smooth: neither energy nor force jumps. Where they look most like it, in eight intervals of 0.01 Å, one looks ten
  times closer, and again, down to 1e-10 Å; what is left of the change, divided by one plus the value, must be below
  1e-6. This does not see kinks of the force, waves, spikes that fit between two points, jumps in the two intervals at
  either end, or anything that needs a third atom.
- Repulsive: the force pushes the atoms apart everywhere below 0.75 sums of covalent radii, so that there is no hole to
  fall into left of the shortest bonds (N2 has 0.77, CO 0.79), and at 0.3 Å the energy is above that of the separated
  atoms.

The number of minima tells of waves that no pair of atoms has; it is shown, not judged. The picture shows all curves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from _frame import Answer, Row, answer
from _measures import count_minima, largest_jump, repulsive_below
from _work import computed, each, table, work_folder
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from matplotlib.figure import Figure

from ase_geomol import GeoMolCalculator
from ase_geomol.errors import GeoMolError

MODEL = "geomformer-organic"
SETTINGS = {"from Å": 0.3, "beyond the cutoff Å": 1.0, "step Å": 0.01, "jump": 1e-6, "short / radii": 0.75}
NO_CUTOFF = 10.0  # Å, to look at where a potential has no cutoff
COLUMNS = {
    "jump of the energy": max,
    "jump of the force": max,
    "at 0.3 Å eV": min,
    "minimum eV": min,
    "minimum Å": min,
    "minima": max,
    "smooth": lambda found: found.count("yes"),
    "repulsive": lambda found: found.count("yes"),
}


def run(smoke: bool, model: str) -> Answer:
    """One row a pair, then how many passed."""
    elements = sorted(GeoMolCalculator(model).elements)[: 2 if smoke else None]
    pairs = {"-".join(chemical_symbols[z] for z in pair): pair for pair in combinations_with_replacement(elements, 2)}
    with work_folder("dimers", SETTINGS, smoke, model) as folder:
        rows = each(pairs, partial(_row, model=model), folder)
        _draw([row for row in rows if not row["error"]], pairs, elements, folder / "dimers.png")
    summary: dict[str, float | None] = {
        f"{name} pairs of {len(rows)}": sum(row.get(name) == "yes" for row in rows) for name in ("smooth", "repulsive")
    }
    summary["pairs that ended with an error (goal: 0)"] = sum(bool(row["error"]) for row in rows)
    return Answer(table(rows, COLUMNS), summary, computed(rows))


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


def _row(pair: tuple[int, int], model: str) -> Row:
    calculator = GeoMolCalculator(model, dtype="float64")
    end = (calculator.cutoff or NO_CUTOFF) + SETTINGS["beyond the cutoff Å"]
    distances = np.arange(SETTINGS["from Å"], end, SETTINGS["step Å"])
    return judged(partial(curve, calculator=calculator, pair=pair), distances, sum(covalent_radii[z] for z in pair))


def judged(both: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], distances: np.ndarray, radii: float) -> Row:
    """What is said of the curve of energies and forces of two atoms with this sum of covalent radii (Å)."""
    energies, forces = both(distances)
    bad = ~np.isfinite(energies + forces)
    if bad.any():
        raise GeoMolError(f"Energy or force is NaN or infinite at {distances[bad][0]:.2f} Å.")
    jumps = [
        largest_jump(lambda where, part=part: both(where)[part], distances, values)
        for part, values in enumerate((energies, forces))
    ]
    wall, deepest = energies[0] - energies[-1], int(np.argmin(energies))
    repulsive = wall > 0 and repulsive_below(distances, forces, SETTINGS["short / radii"] * radii)
    return {
        "jump of the energy": jumps[0],
        "jump of the force": jumps[1],
        "at 0.3 Å eV": float(wall),
        "minimum eV": float(energies[deepest] - energies[-1]),
        "minimum Å": float(distances[deepest]),
        "minima": count_minima(forces),
        "smooth": "yes" if max(jumps) < SETTINGS["jump"] else "NO",
        "repulsive": "yes" if repulsive else "NO",
        "curve": [distances.tolist(), (energies - energies[-1]).tolist()],
    }


def _draw(rows: list[Row], pairs: dict[str, tuple[int, int]], elements: list[int], path: Path) -> None:
    """A triangle of curves, all with the same axes."""
    count = len(elements)
    figure = Figure(figsize=(1.5 * count + 1, 1.3 * count + 1), layout="constrained")
    for row in rows:
        first, second = pairs[row["name"]]
        down, across = elements.index(second), elements.index(first)
        axes = figure.add_subplot(count, count, down * count + across + 1)
        axes.plot(*row["curve"], "C0-", lw=1)
        axes.axhline(0, color="0.8", lw=0.6, zorder=0)
        axes.axvline(float(covalent_radii[first] + covalent_radii[second]), color="0.8", lw=0.6, zorder=0)
        axes.set(ylim=(-12, 20), xlim=(0, row["curve"][0][-1]))
        axes.tick_params(labelsize=6, labelleft=across == 0, labelbottom=down == count - 1)
        axes.set_title(row["name"], fontsize=7, y=0.8)
    figure.supxlabel("Distance (Å); the gray line is the sum of covalent radii")
    figure.supylabel("Energy − separated atoms (eV)")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    answer(__doc__ or "", run, model=MODEL, on_card=True, settings=SETTINGS)
