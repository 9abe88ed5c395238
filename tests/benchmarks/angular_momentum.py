"""How well does molecular dynamics on EST keep the angular momentum of an isolated cluster, on which points?

Points on a sphere break the symmetry of rotations a little, and a cluster in vacuum is turned by what they break. A
cluster of 13 atoms (cuboctahedral copper; for a network that does not know copper, ethanol) moves for 10 ps at constant
energy (velocity Verlet, 0.5 fs, double precision), with the same weights on exact rules and on Fibonacci lattices. It
starts at its minimum, without momentum or angular momentum, with velocities of 600 K: some of that turns into potential
energy. "Angular momentum": its largest size on the way, over that of one degree of freedom in equipartition at 300 K,
the root of ``kT I`` with the mean moment of inertia I. A potential with all symmetries leaves only rounding. "Drift":
of the total energy, which all points conserve, since forces are gradients. Rows are kept as they are computed.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from _frame import Answer, Row, answer
from _measures import drift
from _sphere import Variant, use_points
from _work import computed, each, undated, work_folder
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.cluster import Octahedron
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from rotations_trained import variants

from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import ConfigError, GeoMolError
from ase_geomol.graph import from_atoms
from ase_geomol.models.est import EST
from ase_geomol.potential import Potential

MODEL = "est-crystal"
SETTINGS = {"seed": 0, "first K": 600, "time ps": 10, "time step fs": 0.5, "fmax eV/Å": 0.02}
STEPS = round(1000 * SETTINGS["time ps"] / SETTINGS["time step fs"])
DRIFT = "drift of the energy meV/atom/ps"
DRIFT_GOAL = 0.1
LEFT_OUT = (
    "lebedev-50",
    "lebedev-110",
    "lebedev-194",
    "fibonacci-132, quadrature",
    "fibonacci-132, least squares",
    "fibonacci-256, quadrature",
    "fibonacci-256, least squares",
    "e3nn",
)
"""Points of `rotations_trained` that are left out here: a run takes ten minutes and more."""


class Forces(Calculator):
    """A potential in double precision, whose points can be changed."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  (ASE's own interface)

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        assert isinstance(self.atoms, Atoms)
        found = self.potential(from_atoms(self.atoms, self.potential.cutoff))
        assert found.forces is not None
        self.results = {"energy": float(found.energy[0].detach()), "forces": found.forces.detach().numpy()}


def run(smoke: bool, model: str) -> Answer:
    """One row for each set of points."""
    config = _network(model).config
    chosen = [v for v in variants(config.points, config.lmax) if v.name not in LEFT_OUT][: 1 if smoke else None]
    work = {variant.name.replace(", ", "-").replace(" ", "-"): variant for variant in chosen}
    with work_folder("angular_momentum", SETTINGS, smoke, model) as folder:
        rows = each(work, partial(_row, model=model, smoke=smoke), folder)
    right = {row["points"]: row for row in rows if not row["error"]}
    exact = right.get(chosen[0].name, {})
    lattice = right.get(f"fibonacci-{len(chosen[0].rule.points)}, quadrature", {})
    most = "largest angular momentum / thermal"
    both = most in exact and most in lattice
    return Answer(
        undated(rows),
        {
            f"{DRIFT}, {config.points} (goal: {DRIFT_GOAL})": abs(exact[DRIFT]) if exact else None,
            f"angular momentum, {lattice.get('points', 'lattice')} / {config.points}": (
                lattice[most] / exact[most] if both else None
            ),
            "points that ended with an error (goal: 0)": len(rows) - len(right),
        },
        computed(rows),
    )


def _network(model: str) -> EST:
    network = load_checkpoint(model).potential.model
    if not isinstance(network, EST):
        raise ConfigError(f"{model} is no EST: it has no points on a sphere.")
    return network


def _row(variant: Variant, model: str, smoke: bool) -> Row:
    potential = load_checkpoint(model).potential.double()
    start = Octahedron("Cu", 3, 1) if 29 in potential.elements else molecule("CH3CH2OH")
    start.calc = Forces(potential)
    at_rest = BFGS(start, logfile=None).run(fmax=SETTINGS["fmax eV/Å"], steps=2 if smoke else 200)
    if not (at_rest or smoke):
        raise GeoMolError("The cluster was not relaxed in 200 steps.")
    use_points(potential.model, variant, potential.model.config.lmax)  # pyright: ignore[reportAttributeAccessIssue]
    steps = 10 if smoke else STEPS
    atoms = start.copy()
    atoms.calc = Forces(potential)
    thermalize_momenta(atoms, temperature_K=SETTINGS["first K"], rng=np.random.default_rng(SETTINGS["seed"]))
    Stationary(atoms)
    ZeroRotation(atoms)
    thermal = float(np.sqrt(SETTINGS["first K"] / 2 * units.kB * np.mean(atoms.get_moments_of_inertia())))
    times, energies, momenta, temperatures = [], [], [], []

    def look() -> None:
        times.append(dynamics.get_time() / units.fs / 1e3)
        energies.append(1e3 * atoms.get_total_energy() / len(atoms))
        momenta.append(float(np.linalg.norm(atoms.get_angular_momentum())))
        temperatures.append(atoms.get_temperature() * 3 * len(atoms) / (3 * len(atoms) - 6))  # nothing moves or turns

    dynamics = VelocityVerlet(atoms, SETTINGS["time step fs"] * units.fs)
    dynamics.attach(look, interval=10)
    dynamics.run(steps)
    slope, _ = drift(np.array(times), np.array(energies))
    return {
        "points": variant.name,
        "count": len(variant.rule.points),
        "largest angular momentum / thermal": max(momenta) / thermal,
        "mean temperature K": float(np.mean(temperatures)),
        DRIFT: slope,
    }


if __name__ == "__main__":
    answer(__doc__ or "", run, packages=["e3nn"], model=MODEL, on_card=True, settings=SETTINGS)
