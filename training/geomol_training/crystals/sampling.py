"""What is made of one starting structure, with the teacher's forces and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, molecule, surface
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from ..labelling.sampling import langevin
from .recipe import CrystalRecipe, Variants
from .teacher import TeacherError

ADSORBATES = ("H", "C", "N", "O", "OH", "CO", "H2O")
MILLER = ((1, 0, 0), (1, 1, 0), (1, 1, 1))
VACUUM = 6.0
"""Å, at either side of a slab."""
MOVED_ATOMS = 6
"""Fewer atoms are repeated before they are displaced, so that not all of a kind move as one."""
DIMER_DISTANCES = 10
DIMER_REACH = 6.0
"""Å"""


@dataclass
class CrystalTray:
    """Collects labelled frames and counts what was rejected and why."""

    recipe: CrystalRecipe
    teacher: Calculator
    frames: list[Atoms] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, atoms: Atoms, source: str) -> bool:
        """Label ``atoms`` and keep them; False when they were rejected."""
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        frame.calc = self.teacher
        try:
            frame.get_potential_energy()
            results = dict(self.teacher.results)
        except TeacherError as error:
            self.rejected[f"teacher: {str(error)[:60]}"] += 1
            return False
        if np.linalg.norm(results["forces"], axis=1).max() > self.recipe.max_force:
            self.rejected["force too large"] += 1
            return False
        if np.abs(results.get("stress", np.zeros(6))).max() > self.recipe.max_stress:
            self.rejected["stress too large"] += 1
            return False
        frame.calc = SinglePointCalculator(frame, **results)
        frame.info["source"] = source
        self.frames.append(frame)
        return True

    def drive(self, atoms: Atoms) -> np.ndarray:
        """The teacher's forces (N, 3) in eV/Å; raises :class:`TeacherError`."""
        moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        moved.calc = self.teacher
        return moved.get_forces()


def make_variants(start: Atoms, settings: Variants, tray: CrystalTray, rng: np.random.Generator) -> None:
    """Relax a crystal a little, then strain, rattle, heat, and sometimes open it; frames go to the tray."""
    rest = _attempt(tray, lambda: _relaxed(start, settings, tray)) or start
    moved = enlarged(rest, MOVED_ATOMS, settings.largest)
    for _ in range(settings.strained):
        tray.add(strained(rest, settings.volume, settings.strain, rng), "strain")
    for _ in range(settings.rattled):
        tray.add(rattled(strained(moved, settings.volume, settings.strain, rng), settings.rattle, rng), "rattle")
    small = settings.gentle_strain
    for _ in range(settings.gentle):
        nearby = strained(moved, ((1 - small) ** 3, (1 + small) ** 3), small, rng)
        tray.add(rattled(nearby, settings.gentle_rattle, rng), "gentle")
    if settings.hot:
        _attempt(tray, lambda: _heat(enlarged(rest, 4, settings.largest), settings, tray, rng))
    if rng.random() < settings.vacancy_share:
        cell = enlarged(rest, 8, settings.largest)
        if len(cell) > 2:
            del cell[int(rng.integers(len(cell)))]
            for sizes in (settings.gentle_rattle, settings.rattle):
                tray.add(rattled(cell, sizes, rng), "vacancy")
            _attempt(tray, lambda: _relaxed(cell, settings, tray, "vacancy", cell_too=False))
    if rng.random() < settings.surface_share:
        slab = slab_of(rest, settings.largest, rng)
        if slab is not None:
            for sizes in (settings.gentle_rattle, settings.rattle):
                tray.add(rattled(slab, sizes, rng), "surface")
            _attempt(tray, lambda: _relaxed(slab, settings, tray, "surface", cell_too=False))


def make_dimer(numbers: tuple[int, int], tray: CrystalTray, rng: np.random.Generator) -> None:
    """Two atoms in vacuum at distances from `DIMER_REACH` down to the repulsive wall, each drawn from its own range."""
    wall = 0.6 * covalent_radii[list(numbers)].sum()
    for place in range(DIMER_DISTANCES):
        distance = DIMER_REACH * (wall / DIMER_REACH) ** ((place + rng.random()) / DIMER_DISTANCES)
        if not tray.add(Atoms(numbers, [[0, 0, 0], [0, 0, distance]]), "dimer"):
            return


def strained(atoms: Atoms, volume: tuple[float, float], size: float, rng: np.random.Generator) -> Atoms:
    """The volume times a number of that range, each axis changed by up to half of ``size`` more, and sheared."""
    length = np.exp(rng.uniform(*np.log(volume)) / 3)
    change = np.eye(3) * length + np.diag(rng.uniform(-size / 2, size / 2, 3))
    shear = rng.normal(0, size / 2, (3, 3))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (change + np.triu(shear, 1) + np.triu(shear, 1).T), scale_atoms=True)
    return moved


def rattled(atoms: Atoms, sizes: tuple[float, float], rng: np.random.Generator) -> Atoms:
    """All atoms displaced at random; the deviation of a coordinate in Å is drawn from the range ``sizes``."""
    moved = atoms.copy()
    moved.positions += rng.normal(0, rng.uniform(*sizes), moved.positions.shape)
    return moved


def enlarged(atoms: Atoms, least: int, largest: int) -> Atoms:
    """Repeated along the shortest vectors until there are ``least`` atoms, if that leaves at most ``largest``."""
    while len(atoms) < least and 2 * len(atoms) <= largest:
        repeats = [1, 1, 1]
        repeats[int(atoms.cell.lengths().argmin())] = 2
        atoms = atoms.repeat(repeats)
    return atoms.copy()


def slab_of(atoms: Atoms, largest: int, rng: np.random.Generator) -> Atoms | None:
    """A slab with a low-index surface, half of the time with an adsorbate; None where it would be too large."""
    if len(atoms) > largest // 2:
        return None
    try:
        layers = max(1, min(4, largest // len(atoms) - 1))
        slab = surface(atoms, MILLER[int(rng.integers(len(MILLER)))], layers, vacuum=VACUUM)
        if rng.random() < 0.5:
            name = ADSORBATES[int(rng.integers(len(ADSORBATES)))]
            guest = molecule(name) if len(name) > 1 else Atoms(name, [[0, 0, 0]])
            top = slab.positions[slab.positions[:, 2].argmax()]
            add_adsorbate(slab, guest, height=rng.uniform(1.3, 2.3), position=(top[0], top[1]))
    except (ValueError, IndexError, TypeError, RuntimeError, ZeroDivisionError):
        return None  # ASE cannot cut every cell
    slab.pbc = True  # the teacher's stress needs a volume
    return slab if len(slab) <= 2 * largest else None


def _relaxed(
    start: Atoms, settings: Variants, tray: CrystalTray, source: str = "relax", cell_too: bool = True
) -> Atoms:
    if not settings.relax_steps:
        return start
    moving = start.copy()
    moving.calc = tray.teacher
    kept = {round(step) for step in np.linspace(0, settings.relax_steps, settings.relax_frames + 1)[1:]}
    optimizer = FIRE(FrechetCellFilter(moving) if cell_too else moving, logfile=None, maxstep=0.1)  # pyright: ignore[reportArgumentType]
    for step, converged in enumerate(optimizer.irun(fmax=0.02, steps=settings.relax_steps)):
        if step in kept or converged:
            tray.add(moving, source)
        if converged:
            break
    moving.calc = None
    return moving


def _heat(start: Atoms, settings: Variants, tray: CrystalTray, rng: np.random.Generator) -> None:
    temperature = rng.uniform(*settings.temperature)
    for step, moved, forces in langevin(start, temperature, settings, rng, tray.drive):
        if np.linalg.norm(forces, axis=1).max() > tray.recipe.max_force:
            tray.rejected["force too large"] += 1
            return
        if step % settings.interval == 0:
            tray.add(moved, "hot")
        if step == settings.hot * settings.interval:
            return


def _attempt(tray: CrystalTray, action: Callable[[], Atoms | None]) -> Atoms | None:
    try:
        return action()
    except TeacherError as error:
        tray.rejected[f"teacher: {str(error)[:60]}"] += 1
        return None
