"""How much do energies and forces of a trained EST change as a structure is turned, on its own points and on others?

Structures: thirty cubic crystals, atoms moved by 0.05 Å, and of less symmetry a few hot and sheared crystals, ones with
a vacancy, slabs with an adsorbate, a layer of graphene, pairs of atoms and small molecules; for a network that does not
know metals, ethanol with atoms moved by 0.05 Å. Each is turned once at random; forces are turned back. The same weights
run in double precision on their own points, on other exact rules, on Fibonacci lattices, whose analysis is the
quadrature with equal weights or least squares (as in paper mode), and on e3nn's product grid, whose points attention
counts alike. "Apart" says how far the forces are from those on the network's own points: weights fit the points that
they were trained on. The last columns are the largest change of forces (meV/Å) in structures of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from _frame import Answer, Row, answer, progress
from _sphere import Variant, e3nn_grid, random_rotation, use_points
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, graphene, molecule
from materials import CRYSTALS

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.graph import from_atoms
from ase_geomol.models.est import EST
from ase_geomol.nn.sphere import fibonacci, point_rule
from ase_geomol.potential import Potential

MODEL = "est-crystal"
SETTINGS = {"seed": 0, "rattle Å": 0.05, "rattle hot crystals Å": 0.25}
EXACT = ("icosahedral-32", "lebedev-50", "icosahedral-72", "lebedev-110", "icosahedral-132", "lebedev-194")
ENERGY, FORCES = "energy meV/atom", "forces meV/Å"
GOALS = {f"largest change of {ENERGY}": 0.01, f"largest change of {FORCES}": 0.1}


def run(smoke: bool, model: str) -> Answer:
    """One row for each set of points."""
    potential = load_checkpoint(model).potential.double()
    if not isinstance(potential.model, EST):
        raise ConfigError(f"{model} is no EST: it has no points on a sphere.")
    own, lmax = potential.model.config.points, potential.model.config.lmax
    structures = _structures(potential.elements)
    structures = structures[:: len(structures) - 1] if smoke else structures
    pairs = [Pair(kind, atoms, random_rotation(seed).numpy()) for seed, (kind, atoms) in enumerate(structures)]
    expected = [_answer(potential, pair.plain)[1] for pair in pairs]
    rows = []
    for variant in progress(variants(own, lmax)[: 2 if smoke else None], "points"):
        use_points(potential.model, variant, lmax)
        rows.append(_row(potential, variant, pairs, expected))
    used = next(row for row in rows if row["points"] == f"{own}, its own")
    summary: dict[str, float | None] = {f"{what} (goal: {goal})": used[what] for what, goal in GOALS.items()}
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        summary[f"largest change of {FORCES}, {kind}"] = used[kind]
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


class Pair(NamedTuple):
    """A structure, and how it is turned."""

    kind: str
    plain: Atoms
    rotation: np.ndarray

    @property
    def turned(self) -> Atoms:
        """The structure, cell and all, turned."""
        plain, rotation = self.plain, self.rotation
        return Atoms(plain.numbers, plain.positions @ rotation.T, cell=plain.cell.array @ rotation.T, pbc=plain.pbc)


def _structures(elements: tuple[int, ...]) -> list[tuple[str, Atoms]]:
    """Structures with their kinds, atoms moved a little."""
    chosen = [("molecule", molecule("CH3CH2OH")) for _ in range(30)]
    if 29 in elements:
        chosen = [(kind, atoms) for kind, atoms in _crystals() if set(atoms.numbers.tolist()) <= set(elements)]
    random = np.random.default_rng(SETTINGS["seed"])
    for kind, atoms in chosen:
        moved = SETTINGS["rattle hot crystals Å"] if kind == "hot" else SETTINGS["rattle Å"]
        atoms.positions += random.normal(0, moved, atoms.positions.shape)
    return chosen


def _crystals() -> Iterator[tuple[str, Atoms]]:
    for name, (structure, a) in CRYSTALS.items():
        yield "cubic", bulk(name, structure, a=a, cubic=structure != "zincblende")
    for name in ("Cu", "Si", "NaCl", "MgO"):
        structure, a = CRYSTALS[name]
        yield "hot", bulk(name, structure, a=a, cubic=True)
        sheared = bulk(name, structure, a=a)
        sheared.set_cell(sheared.cell.array @ SHEAR, scale_atoms=True)
        yield "sheared", sheared
        vacant = bulk(name, structure, a=a, cubic=True) * (2, 1, 1)
        del vacant[0]
        yield "vacancy", vacant
    for metal, adsorbate in (("Cu", "O"), ("Pt", "CO"), ("Al", "H")):
        slab = fcc111(metal, (2, 1, 3), vacuum=7.0)
        add_adsorbate(slab, molecule(adsorbate) if len(adsorbate) > 1 else adsorbate, 1.8, "ontop")
        yield "slab", slab
    yield "layer", graphene(size=(2, 1, 1), vacuum=7.0)
    for symbols, distance in (("CO", 1.13), ("NaCl", 2.4), ("Cu2", 2.2), ("FeO", 1.6)):
        yield "pair", Atoms(symbols, [[0, 0, 0], [0, 0, distance]])
    for name in ("H2O", "CH3OH", "SO2"):
        yield "molecule", molecule(name)


SHEAR = np.array([[1.0, 0.05, 0.0], [0.0, 1.0, -0.08], [0.03, 0.0, 0.95]])


def _answer(potential: Potential, atoms: Atoms) -> tuple[float, np.ndarray]:
    found = potential(from_atoms(atoms, potential.cutoff))
    assert found.forces is not None
    return float(found.energy[0].detach()), found.forces.detach().numpy()


def _row(
    potential: Potential,
    variant: Variant,
    pairs: list[Pair],
    expected: list[np.ndarray],
) -> Row:
    energies, forces, apart = [], [], []
    for pair, own in zip(pairs, expected, strict=True):
        energy, force = _answer(potential, pair.plain)
        other_energy, other_force = _answer(potential, pair.turned)
        energies.append(1e3 * abs(other_energy - energy) / len(pair.plain))
        forces.append(1e3 * np.abs(other_force @ pair.rotation - force).ravel())
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
    } | {kind: _largest(kind, pairs, forces) for kind in dict.fromkeys(pair.kind for pair in pairs)}


def _largest(kind: str, pairs: list[Pair], forces: list[np.ndarray]) -> float:
    """Largest change of a force in structures of a kind, meV/Å."""
    return max(float(found.max()) for pair, found in zip(pairs, forces, strict=True) if pair.kind == kind)


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], model=MODEL, on_card=True, settings=SETTINGS)
