"""How much do energies and forces of a trained EST change as a structure is turned, on its own points and on others?

Structures: cubic crystals, atoms moved by 0.05 Å; for a network that does not know metals, ethanol with atoms moved
likewise. Each is turned once at random; forces are turned back. The same weights run in double precision on their own
points, on other exact rules, on Fibonacci lattices, whose analysis is the quadrature with equal weights or least
squares (as in paper mode), and on e3nn's product grid, whose points attention counts alike. "Apart" says how far the
forces are from those on the network's own points: weights fit the points that they were trained on.
"""

from __future__ import annotations

import numpy as np
from _frame import Answer, Row, answer, progress
from _sphere import Variant, e3nn_grid, random_rotation, use_points
from ase import Atoms
from ase.build import bulk, molecule
from materials import CRYSTALS

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.graph import from_atoms
from ase_geomol.models.est import EST
from ase_geomol.nn.sphere import fibonacci, point_rule
from ase_geomol.potential import Potential

MODEL = "est-crystal"
SETTINGS = {"seed": 0, "rattle Å": 0.05}
EXACT = ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194")
ENERGY, FORCES = "energy meV/atom", "forces meV/Å"
GOALS = {f"largest change of {ENERGY}": 0.01, f"largest change of {FORCES}": 0.1}


def run(smoke: bool, model: str) -> Answer:
    """One row for each set of points."""
    potential = load_checkpoint(model).potential.double()
    if not isinstance(potential.model, EST):
        raise ConfigError(f"{model} is no EST: it has no points on a sphere.")
    own, lmax = potential.model.config.points, potential.model.config.lmax
    structures = _structures(potential.elements, 2 if smoke else 30)
    pairs = [(atoms, _turned(atoms, seed), random_rotation(seed).numpy()) for seed, atoms in enumerate(structures)]
    expected = [_answer(potential, atoms)[1] for atoms in structures]
    rows = []
    for variant in progress(variants(own, lmax)[: 2 if smoke else None], "points"):
        use_points(potential.model, variant, lmax)
        rows.append(_row(potential, variant, pairs, expected))
    used = next(row for row in rows if row["points"] == f"{own}, its own")
    summary: dict[str, float | None] = {f"{what} (goal: {goal})": used[what] for what, goal in GOALS.items()}
    for other in (row for row in rows if row is not used):
        summary[f"mean change of {ENERGY}, {other['points']}"] = other[f"mean change of {ENERGY}"]
    return Answer(rows, summary)


def variants(own: str, lmax: int) -> list[Variant]:
    """The network's own points first, then others."""
    found = [Variant(f"{own}, its own", point_rule(own), "least_squares")]
    found += [Variant(name, point_rule(name), "least_squares") for name in EXACT if name != own]
    for count in sorted({len(found[0].rule.points), 132, 256}):
        found += [
            Variant(f"fibonacci-{count}, quadrature", fibonacci(count), "quadrature"),
            Variant(f"fibonacci-{count}, least squares", fibonacci(count), "least_squares"),
        ]
    grid = e3nn_grid(len(found[0].rule.points), lmax)
    return [*found, Variant("e3nn", grid, "least_squares", counts_points=True)]


def _structures(elements: tuple[int, ...], count: int) -> list[Atoms]:
    random = np.random.default_rng(SETTINGS["seed"])
    cubes = [bulk(name, structure, a=a, cubic=structure != "zincblende") for name, (structure, a) in CRYSTALS.items()]
    chosen = [atoms for atoms in cubes if set(atoms.numbers.tolist()) <= set(elements)][:count]
    if 29 not in elements:
        chosen = [molecule("CH3CH2OH") for _ in range(count)]
    for atoms in chosen:
        atoms.positions += random.normal(0, SETTINGS["rattle Å"], atoms.positions.shape)
    return chosen


def _turned(atoms: Atoms, seed: int) -> Atoms:
    rotation = random_rotation(seed).numpy()
    return Atoms(atoms.numbers, atoms.positions @ rotation.T, cell=atoms.cell.array @ rotation.T, pbc=atoms.pbc)


def _answer(potential: Potential, atoms: Atoms) -> tuple[float, np.ndarray]:
    found = potential(from_atoms(atoms, potential.cutoff))
    assert found.forces is not None
    return float(found.energy[0].detach()), found.forces.detach().numpy()


def _row(
    potential: Potential,
    variant: Variant,
    pairs: list[tuple[Atoms, Atoms, np.ndarray]],
    expected: list[np.ndarray],
) -> Row:
    energies, forces, apart = [], [], []
    for (plain, turned, rotation), own in zip(pairs, expected, strict=True):
        energy, force = _answer(potential, plain)
        other_energy, other_force = _answer(potential, turned)
        energies.append(1e3 * abs(other_energy - energy) / len(plain))
        forces.append(1e3 * np.abs(other_force @ rotation - force).ravel())
        apart.append(1e3 * np.abs(force - own).ravel())
    force_changes = np.concatenate(forces)
    return {
        "points": variant.name,
        "count": len(variant.rule.points),
        f"mean change of {ENERGY}": float(np.mean(energies)),
        f"largest change of {ENERGY}": float(np.max(energies)),
        f"mean change of {FORCES}": float(force_changes.mean()),
        f"largest change of {FORCES}": float(force_changes.max()),
        "mean apart meV/Å": float(np.concatenate(apart).mean()),
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], model=MODEL, on_card=True, settings=SETTINGS)
