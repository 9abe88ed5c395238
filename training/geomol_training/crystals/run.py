"""All starts of a recipe, in jobs that several processes do, each with a teacher of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, combinations_with_replacement, cycle, islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ase_geomol.errors import ConfigError

from ..labelling.jobs import Outcome
from ..labelling.plan import Job, Plan, fingerprint, interleaved
from ..labelling.run import Progress, run_plan
from .recipe import CrystalRecipe, Kind
from .sampling import DIMER_DISTANCES, CrystalTray, make_dimer, make_variants
from .structures import (
    BINARIES,
    LATTICES,
    binary,
    ground_states,
    known_crystals,
    originals,
    pair,
    prototype,
    salt,
    simple_lattice,
    split_of_composition,
)
from .teacher import Teacher
from .volumes import at_predicted_volume

JOB_FRAMES = 60
"""A job has as many starts as give about so many frames."""
BUILT = ("prototype", "element", "binary", "pair", "salt")
"""Starts that have no volume of their own."""
AS_THEY_ARE = ("known", "original", "ground_state")
"""Starts that are labelled themselves; where that is rejected, nothing is made of them."""


@dataclass(frozen=True)
class Start:
    """A structure as plain numbers, so that a plan can be compared with another one."""

    numbers: tuple[int, ...]
    positions: tuple[float, ...]
    cell: tuple[float, ...]

    def atoms(self) -> Atoms:
        """The same as Atoms; free atoms and dimers have no cell."""
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
    atoms = starts.prototype_atoms
    made: dict[Kind, list[Atoms]] = {
        "known": chosen,
        "prototype": [prototype(elements, atoms, rng) for _ in range(starts.prototypes)],
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
        "dimer": [Atoms([first, second]) for first, second in islice(_pairs(elements, rng), starts.dimers)],
        "original": starts.originals * originals(elements, starts.original_atoms) if starts.originals else [],
        "ground_state": starts.ground_states * ground_states(elements, starts.original_atoms),
        "salt": [salt(elements, rng) for _ in range(starts.salts)],
        "pair": [
            pair(first, second, atoms, rng) for _ in range(starts.pairs) for first, second in combinations(elements, 2)
        ],
        "atom": [Atoms(symbol) for symbol in elements] if starts.atoms else [],
    }
    jobs = []
    for order, (kind, structures) in enumerate(made.items()):
        size = max(1, JOB_FRAMES // frames_of_start(recipe, kind))
        rng.shuffle(structures)  # pyright: ignore[reportArgumentType]
        for number, place in enumerate(range(0, len(structures), size)):
            entropy = int(np.random.SeedSequence((recipe.seed, order, number)).generate_state(1)[0])
            tasks = tuple(_start(atoms) for atoms in structures[place : place + size])
            jobs.append(Job(f"{kind}_{number:05d}", kind, entropy, tasks))
    jobs = interleaved(jobs, rng)
    return Plan(tuple(jobs), fingerprint(recipe, jobs), "nothing was asked to be left out")


def frames_of_start(recipe: CrystalRecipe, kind: Kind) -> int:
    """About how many frames a start of this kind gives."""
    if kind in ("atom", "dimer"):
        return 1 if kind == "atom" else DIMER_DISTANCES
    return max(1, recipe.variants.of(kind).frames)


def run_crystal_job(job: Job, recipe: CrystalRecipe, python: Path) -> Outcome:
    """Make and label the frames of all starts of ``job``, as far as the time for a job allows."""
    settings = recipe.teacher
    teacher = _teacher(python, settings.calculator, tuple(sorted(settings.arguments.items())), settings.seconds)
    teacher.limit(settings.job_seconds)
    frames: list[Atoms] = []
    rejected: Counter[str] = Counter()
    seeds = np.random.SeedSequence(job.seed).spawn(len(job.tasks))
    for task, seed in zip(job.tasks, seeds, strict=True):
        start, rng, tray = task.atoms(), np.random.default_rng(seed), CrystalTray(recipe, teacher)
        _make_frames(job.kind, start, tray, rng)  # pyright: ignore[reportArgumentType]
        split = split_of_composition(start) if start.pbc.any() else "train"
        for frame in tray.frames:
            frame.info |= {"split": split, "start": job.kind}
            frame.info["formula"] = start.get_chemical_formula(empirical=True)
        frames += tray.frames
        rejected += tray.rejected
    return Outcome(frames, rejected)


def _make_frames(kind: Kind, start: Atoms, tray: CrystalTray, rng: np.random.Generator) -> None:
    if kind == "dimer":
        make_dimer((start.numbers[0], start.numbers[1]), tray, rng)
    elif kind == "atom":
        tray.add(start, "atom")
    elif kind not in AS_THEY_ARE or tray.add(start, kind):
        crystal = at_predicted_volume(start) if kind in BUILT else start
        make_variants(crystal, tray.recipe.variants.of(kind), tray, rng)


def _pairs(elements: tuple[str, ...], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Atomic numbers of all pairs in a random order, endlessly."""
    pairs = list(combinations_with_replacement([atomic_numbers[symbol] for symbol in elements], 2))
    return cycle([pairs[i] for i in rng.permutation(len(pairs))])


@cache
def _teacher(python: Path, calculator: str, arguments: tuple[tuple[str, object], ...], seconds: float) -> Teacher:
    """One teacher for each labelling process, as long as that lives."""
    return Teacher(python, calculator, dict(arguments), seconds)


def _start(atoms: Atoms) -> Start:
    return Start(
        tuple(atoms.numbers.tolist()),
        tuple(atoms.positions.round(8).ravel().tolist()),
        tuple(atoms.cell.array.round(8).ravel().tolist()),
    )
