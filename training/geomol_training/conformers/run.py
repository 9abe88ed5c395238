"""All molecules of a recipe, in jobs that several processes do: each gets its set of conformers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from ase_geomol.calculator import GeoMolCalculator
from ase_geomol.errors import DataError

from ..labelling.engine import RejectedFrame, import_tblite
from ..labelling.jobs import Outcome, names
from ..labelling.molecules import Molecule
from ..labelling.plan import Job, Plan, Task, fingerprint, interleaved
from ..labelling.pools import druglike_molecules, excluded_keys
from ..labelling.qm9 import sample_qm9
from ..labelling.run import Progress, run_plan
from ..splits import places_of
from .data import load_sets
from .recipe import ConformerRecipe, Known, Molecules
from .search import find_conformers

KNOWN = "known"
JOB_SIZES = {"qm9": 8, "druglike": 4, KNOWN: 1}
ROWS = 2.5
"""Of QM9 that are looked at for each molecule that is wanted: many have no rotatable bond."""


def make_conformers(
    recipe: ConformerRecipe,
    folder: Path,
    workers: int = 1,
    time_budget: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    first: int | None = None,
) -> dict:
    """Run every job of ``recipe`` whose shard is not in ``folder`` and return the manifest.

    Arguments and errors are those of `geomol_training.labelling.run.make_labels`. In the shards the conformers of a
    molecule follow each other from the lowest energy (eV) on; ``smiles`` gives the order of their atoms (see
    `ase_geomol.providers.molecules.parse`), ``boltzmann_weight`` their shares.
    """
    import_tblite()
    stop = None if time_budget is None else time.monotonic() + time_budget
    work = partial(run_conformer_job, recipe=recipe)
    return run_plan(make_conformer_plan(recipe), recipe, work, folder, workers, stop, report, first)


def make_conformer_plan(recipe: ConformerRecipe) -> Plan:
    """Draw all molecules; the same recipe and packages give the same plan."""
    if recipe.known is not None:
        return _plan_of_known(recipe, recipe.known)
    assert recipe.molecules is not None
    forbidden, note = excluded_keys(recipe.exclude)
    random, wanted = np.random.default_rng(recipe.seed), recipe.molecules
    seen = set(forbidden)

    def suits(molecule: Molecule) -> bool:
        return molecule.key not in seen and is_wanted(molecule.smiles, wanted)

    found: dict[str, tuple[int, Iterator[Molecule]]] = {
        "qm9": (wanted.qm9, (m for m in sample_qm9(round(ROWS * wanted.qm9), random) if suits(m))),
        "druglike": (wanted.druglike, druglike_molecules(recipe, suits, random)),
    }
    jobs = []
    for order, (kind, (count, candidates)) in enumerate(found.items()):
        chosen: list[Task] = []
        for molecule in islice(candidates, count):
            seen.add(molecule.key)
            chosen.append(Task((Molecule(molecule.smiles, molecule.key),)))
        if len(chosen) < count:
            raise DataError(f"Only {len(chosen)} of {count} molecules of {kind} suit the recipe: ask for fewer.")
        jobs += _jobs(chosen, kind, (recipe.seed, order))
    jobs = interleaved(jobs, random)
    return Plan(tuple(jobs), fingerprint(recipe, jobs), note)


def _plan_of_known(recipe: ConformerRecipe, known: Known) -> Plan:
    """The stereoisomers that the sets are of, in the split that these name."""
    sets = load_sets(known.sets).sets
    places = np.random.default_rng(recipe.seed).permutation(places_of(sets, known.split))
    keys = [str(sets.group_names[sets.group[place]]) for place in places]
    tasks = [Task((Molecule(str(sets.smiles[place]), key),)) for place, key in zip(places, keys, strict=True)]
    jobs = _jobs(tasks, KNOWN, (recipe.seed,))
    return Plan(tuple(jobs), fingerprint(recipe, jobs), f"molecules of {known.sets} that are not of '{known.split}'")


def _jobs(tasks: Sequence[Task], kind: str, seeds: tuple[int, ...]) -> list[Job]:
    """Jobs of one kind, each with a seed of its own that follows from ``seeds``."""
    size, jobs = JOB_SIZES[kind], []
    for number, start in enumerate(range(0, len(tasks), size)):
        seed = int(np.random.SeedSequence((*seeds, number)).generate_state(1)[0])
        jobs.append(Job(f"{kind}_{number:05d}", kind, seed, tuple(tasks[start : start + size])))
    return jobs


def is_wanted(smiles: str, wanted: Molecules) -> bool:
    """Whether a molecule is small and flexible enough."""
    mol = Chem.MolFromSmiles(smiles)
    small = mol.GetNumHeavyAtoms() <= wanted.heavy_atoms
    return small and rdMolDescriptors.CalcNumRotatableBonds(mol) >= wanted.rotatable_bonds


def run_conformer_job(job: Job, recipe: ConformerRecipe) -> Outcome:
    """Find the conformers of all molecules of ``job``."""
    frames: list[Atoms] = []
    rejected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    potential = GeoMolCalculator(recipe.search.potential, device="cpu")
    split = {} if recipe.known is None else {"split": recipe.known.split}
    seeds = np.random.SeedSequence(job.seed).spawn(len(job.tasks))
    for task, seed in zip(job.tasks, seeds, strict=True):
        try:
            found = find_conformers(task.molecules[0].smiles, recipe.search, potential, np.random.default_rng(seed))
        except RejectedFrame as rejection:
            rejected[rejection.reason] += 1
            continue
        except Exception as error:  # one odd molecule is not the end of all
            rejected[f"{type(error).__name__}: {error}"] += 1
            continue
        for atoms in found.conformers:
            atoms.info = names(task, job.kind) | split | atoms.info
        frames += found.conformers
        rejected += found.rejected
        sums += found.sums
    return Outcome(frames, rejected, dict(sums))
