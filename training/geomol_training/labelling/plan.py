"""Who is labelled in which job: molecules drawn from the recipe's seed, jobs in a balanced order."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from .molecules import ELEMENTS, Molecule, split_of_all
from .pools import Pools, excluded_keys
from .recipe import ExploreRecipe, ForceField, Labelling, LabelRecipe

JOB_SIZES = {
    "qm9": 4,
    "druglike": 3,
    "hetero": 3,
    "field": 3,
    "small": 6,
    "torsion": 3,
    "distort": 6,
    "pair": 4,
    "cluster": 6,
    "contact": 12,
}
EXTRA_QM9 = 2.0  # the pool is larger than the trajectories need: other jobs draw from all of it
EXTRA_DRUGLIKE = 1.6
EXPLORED = "train"  # the only split whose molecules are explored


@dataclass(frozen=True)
class Task:
    """Molecules that are labelled together; ``elements`` only for contacts."""

    molecules: tuple[Molecule, ...]
    elements: tuple[int, int] | None = None

    @property
    def split(self) -> str:
        """The one split of all its molecules."""
        return split_of_all(self.molecules)


@dataclass(frozen=True)
class Job:
    """One shard's work."""

    name: str
    kind: str
    seed: int
    tasks: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """All jobs in the order in which they run, and what was left out."""

    jobs: tuple[Job, ...]
    fingerprint: str
    excluded: str


def make_plan(recipe: LabelRecipe) -> Plan:
    """Draw the molecules and jobs; the same recipe and packages give the same plan."""
    forbidden, note = excluded_keys(recipe.exclude)
    rng = np.random.default_rng(recipe.seed)
    runs = recipe.trajectories
    sizes = Counter(qm9=round(runs.qm9_molecules * EXTRA_QM9), druglike=round(runs.druglike_molecules * EXTRA_DRUGLIKE))
    if recipe.force_field is not None:
        sizes.update(recipe.force_field.molecules)
    pools = Pools(recipe, sizes, forbidden, rng)
    atoms = Job("atom_00000", "atom", recipe.seed, ())
    jobs = interleaved([atoms, *_jobs(_tasks(recipe, pools, rng), recipe.seed)], rng)
    return Plan(tuple(jobs), fingerprint(recipe, jobs), note)


def make_explore_plan(recipe: ExploreRecipe, checkpoint: str) -> Plan:
    """Draw molecules of the training split only; ``checkpoint`` is the SHA-256 of the weights that are tried."""
    forbidden, note = excluded_keys(recipe.exclude)
    rng = np.random.default_rng(recipe.seed)
    starts = recipe.starts
    sizes = {"qm9": starts.qm9, "druglike": starts.druglike, "hetero": starts.hetero}
    pools = Pools(recipe, sizes, forbidden, rng, EXPLORED)
    bonds = {"qm9": 0.1, "druglike": 0.5, "hetero": 0.4}
    meeting = {"small": 0.3, "qm9": 0.1, "druglike": 0.2, "hetero": 0.4}
    packed = {"small": 0.6, "qm9": 0.2, "hetero": 0.2}
    tasks = {
        **{kind: [Task((molecule,)) for molecule in pools.of[kind]] for kind in sizes},
        "small": [Task((molecule,)) for molecule in pools.of["small"] * starts.small],
        "torsion": [Task((pools.draw(rng, EXPLORED, bonds),)) for _ in range(starts.torsions)],
        "pair": [_pair(pools, rng, EXPLORED, meeting, recipe.max_atoms) for _ in range(starts.pairs)],
        "cluster": [_cluster(pools, rng, EXPLORED, packed, recipe.max_atoms) for _ in range(starts.clusters)],
    }
    jobs = interleaved(_jobs(tasks, recipe.seed), rng)
    return Plan(tuple(jobs), fingerprint(recipe, jobs, checkpoint), note)


def fingerprint(recipe: Labelling, jobs: list[Job], checkpoint: str = "") -> str:
    """SHA-256 of all that decides what a plan makes."""
    text = (
        recipe.model_dump_json(exclude_none=True)
        + "".join(f"{job.name}{job.seed}{job.tasks}" for job in jobs)
        + checkpoint
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _tasks(recipe: LabelRecipe, pools: Pools, rng: np.random.Generator) -> dict[str, list[Task]]:
    runs, largest = recipe.trajectories, recipe.complexes.max_atoms
    both = {"qm9": 0.3, "druglike": 0.7}
    meeting = {"small": 0.45, "qm9": 0.35, "druglike": 0.2}
    packed = {"small": 0.7, "qm9": 0.3}

    def split(shares: dict[str, float]) -> str:
        return pools.draw_split(rng, shares)

    tasks = {
        "qm9": [Task((molecule,)) for molecule in pools.of["qm9"][: runs.qm9_molecules]],
        "druglike": [Task((molecule,)) for molecule in pools.of["druglike"][: runs.druglike_molecules]],
        "small": [Task((molecule,)) for molecule in pools.of["small"] * runs.small_repeats],
        **({} if recipe.force_field is None else {"field": _field(recipe.force_field, pools)}),
        "torsion": [Task((pools.draw(rng, split(both), both),)) for _ in range(recipe.torsions.molecules)],
        "distort": [Task((pools.draw(rng, split(both), both),)) for _ in range(recipe.distortions.molecules)],
        "pair": [_pair(pools, rng, split(meeting), meeting, largest) for _ in range(recipe.complexes.pairs)],
        "cluster": [_cluster(pools, rng, split(packed), packed, largest) for _ in range(recipe.complexes.clusters)],
        "contact": [task for _ in range(recipe.contacts.repeats) for task in _contacts(pools, rng)],
    }
    for kind in ("small", "field", "contact"):
        rng.shuffle(tasks.get(kind, []))  # pyright: ignore[reportArgumentType]
    return tasks


def _field(settings: ForceField, pools: Pools) -> list[Task]:
    """Molecules that the force field moves: the last ones of each pool, which no trajectory has."""
    wanted = settings.molecules.items()
    return [Task((molecule,)) for kind, count in wanted for molecule in pools.of[kind][::-1][:count]]


def _pair(pools: Pools, rng: np.random.Generator, split: str, shares: dict[str, float], max_atoms: int) -> Task:
    first = pools.draw(rng, split, shares, max_atoms - 20)
    return Task((first, pools.draw(rng, split, shares, max_atoms - first.size())))


def _cluster(pools: Pools, rng: np.random.Generator, split: str, shares: dict[str, float], max_atoms: int) -> Task:
    count = int(rng.integers(3, 7))
    return Task(tuple(pools.draw(rng, split, shares, max_atoms // count) for _ in range(count)))


def _contacts(pools: Pools, rng: np.random.Generator) -> list[Task]:
    """One approach for each pair of elements by small molecules, and some by any atoms of any molecules."""
    carriers = {z: [molecule for molecule in pools.of["small"] if z in molecule.elements()] for z in ELEMENTS}

    def carrier(z: int) -> Molecule:
        return carriers[z][int(rng.integers(len(carriers[z])))]

    pairs = combinations_with_replacement(ELEMENTS, 2)
    shares = {"qm9": 0.5, "druglike": 0.5, "small": 1e-6}  # small ones only where there is nothing else
    tasks = [Task((carrier(a), carrier(b)), (a, b)) for a, b in pairs]
    for _ in range(len(tasks) // 4):
        split = pools.draw_split(rng, shares)
        tasks.append(Task((pools.draw(rng, split, shares, 30), pools.draw(rng, split, shares, 30))))
    return tasks


def _jobs(tasks: dict[str, list[Task]], seed: int) -> list[Job]:
    jobs = []
    for order, (kind, listed) in enumerate(tasks.items()):
        size = JOB_SIZES[kind]
        for number, start in enumerate(range(0, len(listed), size)):
            entropy = np.random.SeedSequence((seed, order, number)).generate_state(1)[0]
            jobs.append(Job(f"{kind}_{number:05d}", kind, int(entropy), tuple(listed[start : start + size])))
    return jobs


def interleaved(jobs: list[Job], rng: np.random.Generator) -> list[Job]:
    """Each kind spread evenly over the whole run, so that a run that is stopped leaves the same mixture."""
    totals: dict[str, int] = defaultdict(int)
    for job in jobs:
        totals[job.kind] += 1
    placed: dict[str, int] = defaultdict(int)
    order = []
    for job in jobs:
        order.append((placed[job.kind] + rng.random()) / totals[job.kind])
        placed[job.kind] += 1
    return [jobs[i] for i in np.argsort(order, kind="stable")]
