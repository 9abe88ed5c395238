"""Frames where a potential errs: it moves the molecules, GFN2-xTB checks its forces, the worst frames are kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from ase_geomol.calculator import GeoMolCalculator
from ase_geomol.checkpoint import load_checkpoint
from ase_geomol.errors import ConfigError, DataError, GeoMolError
from ase_geomol.files import write_atomically
from ase_geomol.simulate.watch import BondWatch

from .complexes import packed, settled
from .engine import import_tblite
from .jobs import PREPARING_STEPS, Outcome, names
from .molecules import ELEMENTS, first_geometry
from .plan import Job, Task, make_explore_plan
from .recipe import ExploreRecipe
from .run import Progress, open_folder, run_plan
from .sampling import Tray, langevin, relax, rotor

WEIGHTS = "model.safetensors"


def explore(
    checkpoint: str | Path,
    recipe: ExploreRecipe,
    folder: Path,
    workers: int = 1,
    time_budget: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    first: int | None = None,
) -> dict:
    """Run every job of ``recipe`` whose shard is not in ``folder`` and return the manifest, as `make_labels` does.

    The weights are copied into ``folder`` and used from there: a training that goes on may replace the given ones.
    Molecules are of the training split only. Raises what `make_labels` raises, :class:`CheckpointError` for weights
    that cannot be loaded and :class:`ConfigError` for a potential that lacks one of the molecules' elements.
    """
    import_tblite()
    stop = None if time_budget is None else time.monotonic() + time_budget
    loaded = load_checkpoint(checkpoint)
    if missing := [chemical_symbols[z] for z in ELEMENTS if z not in loaded.potential.elements]:
        raise ConfigError(
            f"{loaded.metadata.name} does not know {' '.join(missing)}: explore with a potential that knows all of "
            f"{' '.join(chemical_symbols[z] for z in ELEMENTS)}."
        )
    plan = make_explore_plan(recipe, loaded.fingerprint)
    open_folder(folder, plan)
    write_atomically(folder / WEIGHTS, loaded.path.read_bytes())
    if load_checkpoint(folder / WEIGHTS).fingerprint != loaded.fingerprint:
        raise DataError(f"{loaded.path} was replaced while it was copied: run the command again.")
    work = partial(explore_job, recipe=recipe, checkpoint=folder / WEIGHTS)
    return run_plan(plan, recipe, work, folder, workers, stop, report, first)


def explore_job(job: Job, recipe: ExploreRecipe, checkpoint: Path) -> Outcome:
    """Probe each task with a few frames; where the potential errs, sample more. Keep frames above the limit."""
    model = GeoMolCalculator(checkpoint)
    kept: list[Atoms] = []
    rejected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    seeds = np.random.SeedSequence(job.seed).spawn(len(job.tasks))
    for task, seed in zip(job.tasks, seeds, strict=True):
        tray, rng = Tray(recipe.max_force), np.random.default_rng(seed)
        start = partial(_start, job.kind, task, recipe, rng, tray)
        broken = _sample(start, recipe.probe_frames, recipe, model, rng, tray)
        probe = [frame.info["error"] for frame in tray.frames]
        wrong = broken or sum(probe) > recipe.limit * len(probe)
        if wrong:
            broken += _sample(start, recipe.more_frames, recipe, model, rng, tray)
        for frame in tray.frames:
            if frame.info["error"] > recipe.limit:
                frame.info = names(task, f"explored_{job.kind}")
                kept.append(frame)
        rejected += tray.rejected
        sums.update(molecules=1, wrong=int(wrong), broken=int(broken), labelled=len(tray.frames))
        sums.update(probe_frames=len(probe), probe_error=sum(probe))  # pyright: ignore[reportCallIssue]
    return Outcome(kept, rejected, dict(sums))


def _start(kind: str, task: Task, recipe: ExploreRecipe, rng: np.random.Generator, tray: Tray) -> Atoms:
    """A geometry near a minimum of GFN2-xTB, another one at each call."""
    geometries = [first_geometry(molecule, rng) for molecule in task.molecules]
    if len(geometries) > 1:
        start = packed([settled(atoms, rng, tray) for atoms in geometries], recipe.contact, rng)
    elif kind == "torsion":
        start = rotor(geometries[0], rng)(rng.uniform(30, 330))
    else:
        start = geometries[0]
    return relax(start, PREPARING_STEPS, tray)


def _sample(
    start: Callable[[], Atoms],
    frames: int,
    recipe: ExploreRecipe,
    model: GeoMolCalculator,
    rng: np.random.Generator,
    tray: Tray,
) -> bool:
    """Run the model's dynamics through the temperatures and label ``frames`` at each; True where the run broke.

    It breaks when a bond of the start is twice as long, a force exceeds the recipe's maximum, the model has no
    forces or GFN2-xTB no label; the frame that broke is labelled, too. Frames carry ``error``: force RMSE in eV/Å.
    """
    atoms = tray.attempt(start)
    if atoms is None:
        return False
    watch = BondWatch(atoms)
    try:
        for temperature in recipe.temperatures:
            run = langevin(atoms, temperature, recipe, rng, model.get_forces)  # pyright: ignore[reportArgumentType]
            for step, atoms, forces in islice(run, frames * recipe.interval):
                watch.look(atoms, step)
                broken = bool(watch.broken) or np.linalg.norm(forces, axis=1).max() > recipe.max_force
                if broken or step % recipe.interval == 0:
                    if not tray.add(atoms, "explored"):
                        return True
                    error = tray.frames[-1].get_forces() - forces
                    tray.frames[-1].info["error"] = float(np.sqrt((error**2).mean()))
                if broken:
                    return True
    except GeoMolError:
        tray.rejected["no forces of the potential"] += 1
        return True
    return False
