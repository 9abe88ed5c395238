"""All starts of a recipe, in jobs that several processes do, each with a teacher of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ase_geomol.errors import ConfigError

from ..labelling.jobs import Outcome
from ..labelling.plan import Job, Plan, fingerprint, interleaved
from ..labelling.run import Progress, run_plan
from .recipe import CrystalRecipe
from .sampling import CrystalTray, make_dimer, make_variants
from .structures import (
    BINARIES,
    LATTICES,
    binary,
    ground_states,
    known_crystals,
    originals,
    prototype,
    salt,
    simple_lattice,
    split_of_composition,
)
from .teacher import Teacher

JOB_SIZES = {
    **{"known": 4, "prototype": 4, "element": 5, "binary": 5, "dimer": 20},
    **{"original": 4, "ground_state": 4, "salt": 5},
}


@dataclass(frozen=True)
class Start:
    """A structure as plain numbers, so that a plan can be compared with another one."""

    numbers: tuple[int, ...]
    positions: tuple[float, ...]
    cell: tuple[float, ...]

    def atoms(self) -> Atoms:
        """The same as Atoms; a dimer has no cell."""
        periodic = any(self.cell)
        return Atoms(
            self.numbers, np.reshape(self.positions, (-1, 3)), cell=np.reshape(self.cell, (3, 3)), pbc=periodic
        )


def make_crystal_labels(
    recipe: CrystalRecipe,
    python: Path,
    folder: Path,
    workers: int = 1,
    time_budget: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    first: int | None = None,
) -> dict:
    """Run every job of ``recipe`` whose shard is not in ``folder`` and return the manifest.

    Args:
        recipe: what is made.
        python: interpreter of an environment with ASE and the teacher.
        folder: of the shards.
        workers: processes, each with its own teacher and one thread.
        time_budget: s; no job starts after it.
        report: called after each job.
        first: only so many jobs; they are interleaved, so that any beginning is a balanced sample.

    Raises:
        ConfigError: there is no such Python.
        DataError: the teacher cannot be started or ends, or the known crystals are absent.
        OutputError: the folder cannot be written or holds other labels.
    """
    if not python.is_file():
        raise ConfigError(f"There is no Python {python}: give the interpreter that has the teacher.")
    stop = None if time_budget is None else time.monotonic() + time_budget
    plan = make_crystal_plan(recipe)
    work = partial(run_crystal_job, recipe=recipe, python=python)
    return run_plan(plan, recipe, work, folder, workers, stop, report, first)


def make_crystal_plan(recipe: CrystalRecipe) -> Plan:
    """Draw all starts; the same recipe, files and packages give the same plan."""
    rng, starts, elements = np.random.default_rng(recipe.seed), recipe.starts, recipe.elements
    known = known_crystals(starts.files, elements, starts.known_atoms) if starts.known else []
    chosen = [known[i] for i in rng.permutation(len(known))[: starts.known]]
    made = {
        "known": chosen,
        "prototype": [prototype(elements, starts.prototype_atoms, rng) for _ in range(starts.prototypes)],
        "element": [
            simple_lattice(symbol, lattice)
            for _ in range(starts.element_repeats)
            for symbol in elements
            for lattice in LATTICES
        ],
        "binary": [
            binary(str(first), str(second), str(rng.choice(BINARIES)))
            for first, second in (rng.choice(elements, 2, replace=False) for _ in range(starts.binaries))
        ],
        "dimer": [Atoms([atomic_numbers[s] for s in rng.choice(elements, 2)]) for _ in range(starts.dimers)],
        "original": starts.originals * originals(elements, starts.prototype_atoms) if starts.originals else [],
        "ground_state": starts.ground_states * ground_states(elements, starts.prototype_atoms),
        "salt": [salt(elements, rng) for _ in range(starts.salts)],
    }
    jobs = []
    for order, (kind, structures) in enumerate(made.items()):
        size = JOB_SIZES[kind]
        rng.shuffle(structures)  # pyright: ignore[reportArgumentType]
        for number, place in enumerate(range(0, len(structures), size)):
            entropy = int(np.random.SeedSequence((recipe.seed, order, number)).generate_state(1)[0])
            tasks = tuple(_start(atoms) for atoms in structures[place : place + size])
            jobs.append(Job(f"{kind}_{number:05d}", kind, entropy, tasks))
    jobs = interleaved(jobs, rng)
    return Plan(tuple(jobs), fingerprint(recipe, jobs), "nothing was asked to be left out")


def run_crystal_job(job: Job, recipe: CrystalRecipe, python: Path) -> Outcome:
    """Make and label the frames of all starts of ``job``."""
    teacher = _teacher(python, recipe.teacher.calculator, tuple(sorted(recipe.teacher.arguments.items())))
    frames: list[Atoms] = []
    rejected: Counter[str] = Counter()
    seeds = np.random.SeedSequence(job.seed).spawn(len(job.tasks))
    for task, seed in zip(job.tasks, seeds, strict=True):
        start, rng, tray = task.atoms(), np.random.default_rng(seed), CrystalTray(recipe, teacher)
        if job.kind == "dimer":
            make_dimer((task.numbers[0], task.numbers[1]), tray, rng)
        else:
            if job.kind == "known":
                tray.add(start, "known")
            make_variants(start, tray, rng)
        for frame in tray.frames:
            frame.info |= {"split": "train" if job.kind == "dimer" else split_of_composition(start), "start": job.kind}
            frame.info["formula"] = start.get_chemical_formula(empirical=True)
        frames += tray.frames
        rejected += tray.rejected
    return Outcome(frames, rejected)


@cache
def _teacher(python: Path, calculator: str, arguments: tuple[tuple[str, object], ...]) -> Teacher:
    """One teacher for each labelling process, as long as that lives."""
    return Teacher(python, calculator, dict(arguments))


def _start(atoms: Atoms) -> Start:
    return Start(
        tuple(atoms.numbers.tolist()),
        tuple(atoms.positions.round(8).ravel().tolist()),
        tuple(atoms.cell.array.round(8).ravel().tolist()),
    )
