"""Who is labelled in which job: molecules drawn from the recipe's seed, jobs in a balanced order."""

from __future__ import annotations

import hashlib
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from ase_geomol.errors import DataError

from .druglike import random_druglike
from .molecules import ELEMENTS, SPLITS, Molecule, connectivity_key, small_molecules, split_of_all
from .qm9 import sample_qm9
from .recipe import LabelRecipe

JOB_SIZES = {
    "qm9": 4,
    "druglike": 3,
    "small": 6,
    "torsion": 3,
    "distort": 6,
    "pair": 4,
    "cluster": 6,
    "contact": 12,
}
EXTRA_QM9 = 2.0  # the pool is larger than the trajectories need: other jobs draw from all of it
EXTRA_DRUGLIKE = 1.6
SPLIT_SHARES = (0.90, 0.05, 0.05)
ATTEMPTS = 5000
"""Drug-like molecules in a row that are not wanted before the search ends."""


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
    tasks: tuple[Task, ...]


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
    pools = _Pools(recipe, forbidden, rng)
    tasks = _tasks(recipe, pools, rng)
    jobs = _interleaved(_jobs(tasks, recipe.seed), rng)
    text = recipe.model_dump_json() + "".join(f"{job.name}{job.seed}{job.tasks}" for job in jobs)
    return Plan(tuple(jobs), hashlib.sha256(text.encode()).hexdigest(), note)


def excluded_keys(path: Path | None) -> tuple[frozenset[str], str]:
    """Connectivity keys of the file's molecules, and a note on what was found."""
    if path is None:
        return frozenset(), "nothing was asked to be left out"
    if not path.exists():
        return frozenset(), f"{path} is absent: its molecules may be among the labels"
    try:
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as lines:
            found = {match[1] or match[2] for line in lines if (match := _SMILES.search(line))}
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"The molecules to leave out cannot be read from {path}: {error}") from error
    keys = {smiles: connectivity_key(smiles) for smiles in found}
    unread = sorted(smiles for smiles, key in keys.items() if key is None)
    if not found or unread:
        raise DataError(f"{path} has no readable SMILES for the molecules to leave out: {unread or 'none found'}.")
    return frozenset(key for key in keys.values() if key), f"{len(found)} molecules of {path}"


_SMILES = re.compile(r'\bsmiles=(?:"([^"]*)"|(\S+))')


class _Pools:
    """QM9 and drug-like molecules without duplicates, and random draws from one split of them."""

    def __init__(self, recipe: LabelRecipe, forbidden: frozenset[str], rng: np.random.Generator) -> None:
        seen = set(forbidden) | {molecule.key for molecule in small_molecules()}
        self.small = [molecule for molecule in small_molecules() if molecule.key not in forbidden]
        wanted = round(recipe.trajectories.qm9_molecules * EXTRA_QM9)
        self.qm9 = _take_new(sample_qm9(round(wanted * 1.05) + 5 if wanted else 0, rng), wanted, seen)
        wanted = round(recipe.trajectories.druglike_molecules * EXTRA_DRUGLIKE)
        self.druglike = _take_new(_druglike(recipe, seen, rng), wanted, seen)
        self._by_split: dict[tuple[str, str], list[Molecule]] = defaultdict(list)
        for kind in ("small", "qm9", "druglike"):
            for molecule in getattr(self, kind):
                self._by_split[kind, molecule.split].append(molecule)

    def draw(self, rng: np.random.Generator, split: str, shares: dict[str, float], largest: int = 10**6) -> Molecule:
        """A random molecule of ``split`` from the pools that ``shares`` weights.

        It has at most ``largest`` atoms; where none is found, the smallest one is taken.
        """
        kinds = [kind for kind in shares if self._by_split[kind, split]]
        if not kinds:
            raise DataError(f"The recipe's molecules have none in split {split}: ask for more molecules.")
        weights = np.array([shares[kind] for kind in kinds])
        for _ in range(1000):
            pool = self._by_split[kinds[rng.choice(len(kinds), p=weights / weights.sum())], split]
            molecule = pool[int(rng.integers(len(pool)))]
            if molecule.size() <= largest:
                return molecule
        return min((m for kind in kinds for m in self._by_split[kind, split]), key=Molecule.size)

    def draw_split(self, rng: np.random.Generator, shares: dict[str, float]) -> str:
        """A split that has molecules in the pools of ``shares``: 90 %, 5 %, 5 % where all have some."""
        filled = [any(self._by_split[kind, split] for kind in shares) for split in SPLITS]
        if not any(filled):
            raise DataError(f"The recipe draws from {sorted(shares)} but asks for no such molecules.")
        weights = np.array(SPLIT_SHARES) * filled
        return SPLITS[rng.choice(len(SPLITS), p=weights / weights.sum())]


def _sized(molecule: Molecule | None, recipe: LabelRecipe, rng: np.random.Generator) -> Molecule | None:
    """Leave out every second large molecule: the same surroundings of atoms cost less in smaller ones."""
    large = molecule is not None and molecule.size() > recipe.common_druglike_atoms
    return None if large and rng.random() < 0.5 else molecule


def _druglike(recipe: LabelRecipe, seen: set[str], rng: np.random.Generator) -> Iterator[Molecule]:
    """Molecules that are not in ``seen``, endlessly; raises :class:`DataError` where there seem to be no more."""
    missed = 0
    while missed < ATTEMPTS:
        molecule = _sized(random_druglike(rng, recipe.druglike_atoms), recipe, rng)
        if molecule is None or molecule.key in seen:
            missed += 1
            continue
        missed = 0
        yield molecule
    raise DataError(
        f"{ATTEMPTS} drug-like molecules in a row were too small, too large or known already: widen druglike_atoms "
        f"{list(recipe.druglike_atoms)}, or ask for fewer druglike_molecules."
    )


def _take_new(candidates: Iterable[Molecule], count: int, seen: set[str]) -> list[Molecule]:
    """The first ``count`` molecules whose key is not in ``seen``; their keys are added to it."""
    taken: list[Molecule] = []
    if count == 0:
        return taken
    for molecule in candidates:
        if molecule.key not in seen:
            seen.add(molecule.key)
            taken.append(molecule)
            if len(taken) == count:
                break
    return taken


def _tasks(recipe: LabelRecipe, pools: _Pools, rng: np.random.Generator) -> dict[str, list[Task]]:
    runs = recipe.trajectories
    both = {"qm9": 0.3, "druglike": 0.7}
    tasks = {
        "qm9": [Task((molecule,)) for molecule in pools.qm9[: runs.qm9_molecules]],
        "druglike": [Task((molecule,)) for molecule in pools.druglike[: runs.druglike_molecules]],
        "small": [Task((molecule,)) for molecule in pools.small * runs.small_repeats],
        "torsion": [_single(pools, rng, both) for _ in range(recipe.torsions.molecules)],
        "distort": [_single(pools, rng, both) for _ in range(recipe.distortions.molecules)],
        "pair": [_pair(recipe, pools, rng) for _ in range(recipe.complexes.pairs)],
        "cluster": [_cluster(recipe, pools, rng) for _ in range(recipe.complexes.clusters)],
        "contact": [task for _ in range(recipe.contacts.repeats) for task in _contacts(pools, rng)],
    }
    for kind in ("small", "contact"):
        rng.shuffle(tasks[kind])  # pyright: ignore[reportArgumentType]
    return tasks


def _single(pools: _Pools, rng: np.random.Generator, shares: dict[str, float]) -> Task:
    return Task((pools.draw(rng, pools.draw_split(rng, shares), shares),))


def _pair(recipe: LabelRecipe, pools: _Pools, rng: np.random.Generator) -> Task:
    shares = {"small": 0.45, "qm9": 0.35, "druglike": 0.2}
    split = pools.draw_split(rng, shares)
    first = pools.draw(rng, split, shares, recipe.complexes.max_atoms - 20)
    return Task((first, pools.draw(rng, split, shares, recipe.complexes.max_atoms - first.size())))


def _cluster(recipe: LabelRecipe, pools: _Pools, rng: np.random.Generator) -> Task:
    split = pools.draw_split(rng, {"small": 1, "qm9": 1})
    count = int(rng.integers(3, 7))
    largest = recipe.complexes.max_atoms // count
    shares = {"small": 0.7, "qm9": 0.3}
    return Task(tuple(pools.draw(rng, split, shares, largest) for _ in range(count)))


def _contacts(pools: _Pools, rng: np.random.Generator) -> list[Task]:
    """One approach for each pair of elements by small molecules, and some by any atoms of any molecules."""
    carriers = {z: [molecule for molecule in pools.small if z in molecule.elements()] for z in ELEMENTS}

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
    jobs = [Job("atom_00000", "atom", seed, ())]
    for order, (kind, listed) in enumerate(tasks.items()):
        size = JOB_SIZES[kind]
        for number, start in enumerate(range(0, len(listed), size)):
            entropy = np.random.SeedSequence((seed, order, number)).generate_state(1)[0]
            jobs.append(Job(f"{kind}_{number:05d}", kind, int(entropy), tuple(listed[start : start + size])))
    return jobs


def _interleaved(jobs: list[Job], rng: np.random.Generator) -> list[Job]:
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
