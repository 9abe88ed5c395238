"""One job: its molecules are sampled and labelled, and the frames become one shard."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import write

from ase_geomol.errors import OutputError
from ase_geomol.files import write_atomically

from .complexes import cluster, pair_scan, push_together, settled
from .molecules import ELEMENTS, first_geometry, force_field
from .plan import Job, Task
from .recipe import LabelRecipe
from .sampling import Tray, rattle, relax, run_dynamics, run_force_field, stretch_bond, turn_torsion

_RUN_SOURCES = {"qm9": "qm9_md", "druglike": "drug_md", "small": "small_md"}
PREPARING_STEPS = 5  # GFN2 steps before a bond is turned or stretched


class Outcome(NamedTuple):
    """What a job has made: frames to write, rejections by reason, and other numbers to add up over jobs."""

    frames: list[Atoms]
    rejected: Counter[str]
    sums: dict[str, float] = {}  # noqa: RUF012  (never changed)


def run_job(job: Job, recipe: LabelRecipe) -> Outcome:
    """Sample and label the molecules of ``job``."""
    if job.kind == "atom":
        return _isolated_atoms(recipe)
    frames: list[Atoms] = []
    rejected: Counter[str] = Counter()
    seeds = np.random.SeedSequence(job.seed).spawn(len(job.tasks))
    for task, seed in zip(job.tasks, seeds, strict=True):
        tray = Tray(recipe.max_force)
        tray.attempt(_run_task, job.kind, task, recipe, np.random.default_rng(seed), tray)
        for frame in tray.frames:
            frame.info = names(task, frame.info["source"])
        frames += tray.frames
        rejected += tray.rejected
    return Outcome(frames, rejected)


def _run_task(kind: str, task: Task, recipe: LabelRecipe, rng: np.random.Generator, tray: Tray) -> None:
    if kind == "field":
        assert recipe.force_field is not None  # the plan has no such job otherwise
        run_force_field(*force_field(task.molecules[0], rng), recipe.force_field, rng, tray)
        return
    geometries = [first_geometry(molecule, rng) for molecule in task.molecules]
    runs = recipe.trajectories
    if kind in _RUN_SOURCES:
        relaxed = relax(geometries[0], runs.relax_steps, tray, runs.relax_frames)
        run_dynamics(relaxed, _RUN_SOURCES[kind], runs, rng, tray)
    elif kind == "torsion":
        turn_torsion(relax(geometries[0], PREPARING_STEPS, tray), recipe.torsions.relax_steps, rng, tray)
    elif kind == "distort":
        prepared = relax(geometries[0], PREPARING_STEPS, tray)
        for _ in range(recipe.distortions.stretches):
            stretch_bond(prepared, recipe.distortions.scale, rng, tray)
        for _ in range(recipe.distortions.rattles):
            rattle(prepared, recipe.distortions.rattle, rng, tray)
    else:
        monomers = [settled(atoms, rng, tray) for atoms in geometries]
        if kind == "pair":
            pair_scan(monomers[0], monomers[1], recipe.complexes, rng, tray)
        elif kind == "cluster":
            cluster(monomers, runs, rng, tray)
        else:
            push_together(monomers[0], monomers[1], task.elements, recipe.contacts, rng, tray)


def names(task: Task, source: str) -> dict:
    """What stands beside each frame of ``task``."""
    return {
        "smiles": ".".join(molecule.smiles for molecule in task.molecules),
        "molecule": ".".join(molecule.key for molecule in task.molecules),
        "source": source,
        "split": task.split,
        "charge": 0,
    }


def _isolated_atoms(recipe: LabelRecipe) -> Outcome:
    tray = Tray(recipe.max_force)
    for number in ELEMENTS:
        if tray.add(Atoms([number], positions=np.zeros((1, 3))), "atom"):
            frame = tray.frames[-1]
            symbol = frame.get_chemical_symbols()[0]
            frame.info = {
                "smiles": f"[{symbol}]",
                "molecule": f"atom_{symbol}",
                "source": "atom",
                "split": "train",
                "charge": 0,
            }
    return Outcome(tray.frames, tray.rejected)


def shard_path(folder: Path, job: Job) -> Path:
    """Where the frames of ``job`` are; the file exists only when it is complete."""
    return folder / f"{job.name}.extxyz"


def counts_of(folder: Path, job: Job) -> dict | None:
    """What a finished ``job`` has written about its frames; None while it is not done.

    A job without a frame leaves its counts only: an empty file would be none that a reader takes.
    """
    shard = shard_path(folder, job)
    try:
        counts = json.loads(shard.with_suffix(".json").read_text(encoding="utf-8"))
        empty = counts["frames"] == 0
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{shard.with_suffix('.json')} is damaged: delete it and run again ({error}).") from error
    return counts if shard.exists() or empty else None


def run_and_write(job: Job, work: Callable[[Job], Outcome], folder: Path) -> int:
    """Do the ``work`` of ``job``, write its counts and then its shard, if it has frames; return their number.

    Raises:
        OutputError: no permission, no space.
    """
    started = time.monotonic()
    frames, rejected, sums = work(job)
    counts = {
        "frames": len(frames),
        "source": dict(Counter(frame.info["source"] for frame in frames)),
        "split": dict(Counter(frame.info["split"] for frame in frames)),
        "rejected": dict(rejected),
        "seconds": round(time.monotonic() - started, 3),
        **({"sums": sums} if sums else {}),
    }
    shard = shard_path(folder, job)
    write_json(shard.with_suffix(".json"), counts)
    if frames:
        text = io.StringIO()
        write(text, frames, format="extxyz")
        write_atomically(shard, text.getvalue().encode())
    return len(frames)


def write_json(path: Path, content: dict) -> None:
    """Write ``content``, whole or not at all; raises :class:`OutputError`."""
    write_atomically(path, json.dumps(content, indent=1).encode())
