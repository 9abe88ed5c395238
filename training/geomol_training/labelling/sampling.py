"""Where one molecule's atoms are put: relaxation, Langevin MD, turned and stretched bonds, rattles.

Positions are in Å, temperatures in K. A frame that is rejected is counted, and the next one is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.units import fs, kB

from .engine import DRIVING_ACCURACY, GFN2, RejectedFrame, label
from .geometry import bonds_of, rotated, side_of_bond
from .recipe import ForceField, Trajectories

UNIFORM_MASS = 12.0  # u: averages over positions do not depend on masses, and equal ones allow long steps


class Langevin(Protocol):
    """Sections of recipes that say how atoms are moved."""

    @property
    def step_fs(self) -> float:
        """fs; all atoms move with `UNIFORM_MASS`."""
        ...

    @property
    def friction_per_fs(self) -> float:
        """1/fs."""
        ...


@dataclass
class Tray:
    """Collects labelled frames of one task and counts what was rejected and why.

    Its engine starts each calculation from the density of the one before, where the atoms are the same ones.
    """

    max_force: float
    frames: list[Atoms] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    engine: GFN2 = field(default_factory=GFN2)

    def add(self, atoms: Atoms, source: str) -> bool:
        """Label ``atoms`` and keep them; False when they were rejected."""
        try:
            frame = label(atoms, self.max_force, self.engine)
        except RejectedFrame as rejection:
            self.rejected[rejection.reason] += 1
            return False
        frame.info["source"] = source
        self.frames.append(frame)
        return True

    def drive(self, atoms: Atoms) -> np.ndarray:
        """Forces (N, 3) in eV/Å, exact enough to move atoms; raises :class:`RejectedFrame`."""
        return self.engine.evaluate(atoms, DRIVING_ACCURACY)[1]

    def attempt(self, action: Callable[..., Atoms | None], *arguments) -> Atoms | None:
        """Run ``action``; a rejection inside is counted and gives None."""
        try:
            return action(*arguments)
        except RejectedFrame as rejection:
            self.rejected[rejection.reason] += 1
            return None


def relax(atoms: Atoms, steps: int, tray: Tray, frames: int = 0, source: str = "relax") -> Atoms:
    """Follow GFN2 forces for ``steps`` BFGS steps and return the last structure.

    ``frames`` structures, spread evenly and with the last one among them, go to ``tray``.
    """
    moving = atoms.copy()
    moving.calc = tray.engine
    kept = {round(step) for step in np.linspace(0, steps, frames + 1)[1:]}
    optimizer = BFGS(moving, logfile=None, maxstep=0.15)
    for step, converged in enumerate(optimizer.irun(fmax=0.01, steps=steps)):
        if step in kept or (converged and kept):
            tray.add(moving, source)
        if converged:
            break
    moving.calc = None
    return moving


def draw_temperature(settings: Trajectories, rng: np.random.Generator) -> float:
    """K: mostly in the common range, ``hot_share`` of the molecules above it."""
    low, common, high = settings.temperature
    return rng.uniform(common, high) if rng.random() < settings.hot_share else rng.uniform(low, common)


def langevin(
    atoms: Atoms,
    temperature: float,
    settings: Langevin,
    rng: np.random.Generator,
    forces_of: Callable[[Atoms], np.ndarray],
) -> Iterator[tuple[int, Atoms, np.ndarray]]:
    """Yield (step, atoms, forces) along BAOAB Langevin dynamics on the forces (N, 3) of ``forces_of``, endlessly."""
    moving = atoms.copy()
    step_time = settings.step_fs * fs
    kept = np.exp(-settings.friction_per_fs * settings.step_fs)
    thermal = np.sqrt(kB * temperature / UNIFORM_MASS)
    velocities = rng.normal(size=moving.positions.shape) * thermal
    forces = forces_of(moving)
    step = 0
    while True:
        velocities += 0.5 * step_time * forces / UNIFORM_MASS
        moving.positions += 0.5 * step_time * velocities
        velocities = kept * velocities + np.sqrt(1 - kept**2) * thermal * rng.normal(size=velocities.shape)
        moving.positions += 0.5 * step_time * velocities
        forces = forces_of(moving)
        velocities += 0.5 * step_time * forces / UNIFORM_MASS
        step += 1
        yield step, moving, forces


def run_dynamics(
    atoms: Atoms,
    source: str,
    settings: Trajectories,
    rng: np.random.Generator,
    tray: Tray,
    frames: int | None = None,
) -> None:
    """Heat up, then keep a frame at even intervals; large systems take fewer steps for both."""
    wanted = settings.frames if frames is None else frames
    shorter = min(1.0, settings.full_length_atoms / len(atoms))
    heat_steps = round(settings.heat_steps * shorter)
    interval = max(min(2, settings.interval), round(settings.interval * shorter))
    temperature = draw_temperature(settings, rng)
    try:
        for step, moving, _ in langevin(atoms, temperature, settings, rng, tray.drive):
            after_heating = step - heat_steps
            if after_heating > 0 and after_heating % interval == 0:
                tray.add(moving, source)
            if after_heating >= wanted * interval:
                return
    except RejectedFrame as rejection:
        tray.rejected[rejection.reason] += 1


def run_force_field(
    atoms: Atoms,
    forces_of: Callable[[Atoms], np.ndarray],
    settings: ForceField,
    rng: np.random.Generator,
    tray: Tray,
) -> None:
    """Heat up, then label a frame at even intervals, along Langevin MD on the forces (N, 3; eV/Å) of a force field."""
    run = langevin(atoms, rng.uniform(*settings.temperature), settings, rng, forces_of)
    for _, moving, _ in islice(islice(run, settings.heat_steps, None, settings.interval), settings.frames):
        tray.add(moving, "field_md")


def rotor(atoms: Atoms, rng: np.random.Generator) -> Callable[[float], Atoms]:
    """A function that turns one random rotatable bond by degrees; raises :class:`RejectedFrame` if there is none."""
    bonds = bonds_of(atoms)
    sides = [(i, j, side_of_bond(bonds, i, j)) for i, j in zip(*np.nonzero(np.triu(bonds)), strict=True)]
    turnable = [(i, j, side) for i, j, side in sides if side is not None and bonds[i].sum() > 1 and bonds[j].sum() > 1]
    if not turnable:
        raise RejectedFrame("no rotatable bond")
    i, j, side = turnable[int(rng.integers(len(turnable)))]
    origin, axis = atoms.positions[i], atoms.positions[j] - atoms.positions[i]
    return lambda degrees: rotated(atoms, side, origin, axis, degrees)


def turn_torsion(atoms: Atoms, relax_steps: int, rng: np.random.Generator, tray: Tray) -> None:
    """Turn one rotatable bond through a circle; label each angle raw and after a few GFN2 steps."""
    turned = rotor(atoms, rng)
    increment = rng.uniform(15, 30)
    for angle in np.arange(rng.uniform(0, increment), 360, increment):
        if tray.add(turned(angle), "torsion"):
            relaxed = tray.attempt(relax, turned(angle), int(rng.integers(1, relax_steps + 1)), tray)
            if relaxed is not None:
                tray.add(relaxed, "torsion")


def stretch_bond(atoms: Atoms, scale: tuple[float, float], rng: np.random.Generator, tray: Tray) -> None:
    """Scale one random bond; both sides move rigidly, in a ring only the two atoms do."""
    bonds = bonds_of(atoms)
    pairs = np.transpose(np.nonzero(np.triu(bonds)))
    if not len(pairs):
        tray.rejected["no bond"] += 1
        return
    i, j = pairs[int(rng.integers(len(pairs)))]
    side = side_of_bond(bonds, i, j)
    shift = (atoms.positions[j] - atoms.positions[i]) * (rng.uniform(*scale) - 1)
    stretched = atoms.copy()
    if side is None:
        stretched.positions[[i, j]] += 0.5 * np.array([-shift, shift])
    else:
        stretched.positions[side] += shift
    tray.add(stretched, "stretch")


def rattle(atoms: Atoms, widths: tuple[float, float], rng: np.random.Generator, tray: Tray) -> None:
    """Move every coordinate at random, the width (Å) drawn from ``widths``."""
    rattled = atoms.copy()
    rattled.positions += rng.normal(size=rattled.positions.shape) * rng.uniform(*widths)
    tray.add(rattled, "rattle")
