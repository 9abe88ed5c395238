"""Where one molecule's atoms are put: relaxation, Langevin MD, turned and stretched bonds, rattles.

Positions are in Å, temperatures in K. A frame that is rejected is counted, and the next one is tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.units import fs, kB

from .engine import DRIVING_ACCURACY, GFN2, RejectedFrame, label
from .geometry import bonds_of, rotated, side_of_bond
from .recipe import Trajectories

UNIFORM_MASS = 12.0  # u: averages over positions do not depend on masses, and equal ones allow long steps


@dataclass
class Tray:
    """Collects labelled frames of one job and counts what was rejected and why."""

    max_force: float
    frames: list[Atoms] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, atoms: Atoms, source: str, engine: GFN2 | None = None) -> bool:
        """Label ``atoms`` and keep them; False when they were rejected."""
        try:
            frame = label(atoms, self.max_force, engine)
        except RejectedFrame as rejection:
            self.rejected[rejection.reason] += 1
            return False
        frame.info["source"] = source
        self.frames.append(frame)
        return True

    def attempt(self, action: Callable[..., Atoms | None], *arguments) -> Atoms | None:
        """Run ``action``; a rejection inside is counted and gives None."""
        try:
            return action(*arguments)
        except RejectedFrame as rejection:
            self.rejected[rejection.reason] += 1
            return None


def relax(atoms: Atoms, steps: int, tray: Tray | None = None, frames: int = 0, source: str = "relax") -> Atoms:
    """Follow GFN2 forces for ``steps`` BFGS steps and return the last structure.

    ``frames`` structures, spread evenly and with the last one among them, go to ``tray``.
    """
    moving = atoms.copy()
    moving.calc = engine = GFN2()
    kept = {round(step) for step in np.linspace(0, steps, frames + 1)[1:]}
    optimizer = BFGS(moving, logfile=None, maxstep=0.15)
    for step, converged in enumerate(optimizer.irun(fmax=0.01, steps=steps)):
        if tray and (step in kept or (converged and kept)):
            tray.add(moving, source, engine)
        if converged:
            break
    return moving


def draw_temperature(settings: Trajectories, rng: np.random.Generator) -> float:
    """K: mostly in the common range, ``hot_share`` of the molecules above it."""
    low, common, high = settings.temperature
    return rng.uniform(common, high) if rng.random() < settings.hot_share else rng.uniform(low, common)


def langevin(
    atoms: Atoms, temperature: float, settings: Trajectories, rng: np.random.Generator
) -> Iterator[tuple[int, Atoms, GFN2]]:
    """Yield (step, atoms, engine) along BAOAB Langevin dynamics on GFN2 forces, endlessly.

    Raises :class:`RejectedFrame` when the density does not converge on the way.
    """
    moving = atoms.copy()
    engine = GFN2()
    step_time = settings.step_fs * fs
    kept = np.exp(-settings.friction_per_fs * settings.step_fs)
    thermal = np.sqrt(kB * temperature / UNIFORM_MASS)
    velocities = rng.normal(size=moving.positions.shape) * thermal
    forces = engine.evaluate(moving, DRIVING_ACCURACY)[1]
    step = 0
    while True:
        velocities += 0.5 * step_time * forces / UNIFORM_MASS
        moving.positions += 0.5 * step_time * velocities
        velocities = kept * velocities + np.sqrt(1 - kept**2) * thermal * rng.normal(size=velocities.shape)
        moving.positions += 0.5 * step_time * velocities
        forces = engine.evaluate(moving, DRIVING_ACCURACY)[1]
        velocities += 0.5 * step_time * forces / UNIFORM_MASS
        step += 1
        yield step, moving, engine


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
        for step, moving, engine in langevin(atoms, temperature, settings, rng):
            after_heating = step - heat_steps
            if after_heating > 0 and after_heating % interval == 0:
                tray.add(moving, source, engine)
            if after_heating >= wanted * interval:
                return
    except RejectedFrame as rejection:
        tray.rejected[rejection.reason] += 1


def turn_torsion(atoms: Atoms, relax_steps: int, rng: np.random.Generator, tray: Tray) -> None:
    """Turn one rotatable bond through a circle; label each angle raw and after a few GFN2 steps."""
    bonds = bonds_of(atoms)
    sides = [(i, j, side_of_bond(bonds, i, j)) for i, j in zip(*np.nonzero(np.triu(bonds)), strict=True)]
    turnable = [(i, j, side) for i, j, side in sides if side is not None and bonds[i].sum() > 1 and bonds[j].sum() > 1]
    if not turnable:
        tray.rejected["no rotatable bond"] += 1
        return
    i, j, side = turnable[int(rng.integers(len(turnable)))]
    increment = rng.uniform(15, 30)
    for angle in np.arange(rng.uniform(0, increment), 360, increment):
        turned = rotated(atoms, side, atoms.positions[i], atoms.positions[j] - atoms.positions[i], angle)
        if tray.add(turned, "torsion"):
            relaxed = tray.attempt(relax, turned, int(rng.integers(1, relax_steps + 1)))
            if relaxed is not None:
                tray.add(relaxed, "torsion", relaxed.calc)  # pyright: ignore[reportArgumentType]


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
