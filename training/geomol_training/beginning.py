"""What a training begins with: the potential, its reference energies, and which frames make up which step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ase_geomol.checkpoint import Checkpoint, form_of, load_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.models import build_model

from .arrays import write_arrays
from .batches import Plan, Survey, survey
from .frames import Frames, joined
from .low_rank import freeze
from .parts import Parts
from .recipe import Recipe
from .runs import fixed
from .tasks import PotentialTask, Predictor, Task, task_of

UNITS_FRAMES = 100_000
"""From so many frames at most, reference energies and scale are fitted."""


def read_start(name: str, recipe: Recipe) -> Checkpoint:
    """The weights where a training begins; raises :class:`ConfigError` where they are of another network."""
    start = load_checkpoint(name)
    theirs, ours = _form(start.potential), _form(untrained(recipe, ()))
    for field, value in ours.items():
        if theirs.get(field) != value:
            raise ConfigError(
                f"model.start: the '{field}' of {name} is {theirs.get(field)}, that of this recipe is {value}; weights "
                "can only go on in a network of the same form."
            )
    return start


def _form(potential: Predictor) -> dict[str, Any]:
    """All that weights must agree in: dropout and the cutoff shape no weights, the repulsion has none."""
    form = form_of(potential)
    free = [name for name in form["config"] if name.endswith("_dropout") or name == "cutoff"]
    config = {name: value for name, value in form["config"].items() if name not in free}
    return {"architecture": form["architecture"], **config}


def untrained(recipe: Recipe, elements: tuple[int, ...]) -> Predictor:
    """What the recipe makes with random weights, in its precision; ``elements`` where the recipe names none."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model.architecture, {"elements": elements, **recipe.model.config})
    predictor = task_of(recipe).make(model)  # type: ignore[arg-type]
    return predictor.set_dtype(recipe.training.dtype)


def prepare(
    recipe: Recipe,
    task: Task,
    parts: Parts,
    state: dict[str, Any] | None,
    start: Checkpoint | None,
    out: Path,
    workers: int,
    console: Console,
) -> tuple[Predictor, np.ndarray]:
    """What is learned, with its references before the first step, and the size of each frame in a batch, those to
    replay last.

    Where batches hold pairs, the neighbours of all frames are counted first, and the counts are kept in ``out``.
    """
    train = parts.train
    learned = train if parts.replay is None else joined(train, parts.replay)
    predictor = untrained(recipe, train.elements)
    unlearned = sorted(set(predictor.elements) - set(train.elements))
    if unlearned and recipe.model.start is None:
        raise ConfigError(f"model.config.elements has the atomic numbers {unlearned}, which no training frame has.")
    few = _some(train, recipe.seed)
    everything, fresh = recipe.training.batch_edges is not None, start is None and state is None
    with console.status("looking at the neighbours") as status:

        def report(done: int, frames: int) -> None:
            status.update(f"looking at the neighbours: {done} of {frames} frames")

        def look(frames: Frames) -> Survey:
            return survey(frames, predictor.cutoff, report, task.repulsion, workers)

        kept = out / f"neighbours-{_key(recipe, parts)}.npz"
        seen = _seen_once(kept, lambda: look(learned)) if everything else None
        of_few = seen if few is train else None
        if of_few is None and fresh:
            of_few = look(few) if task.repulsion > 0 else Survey(np.zeros(0, dtype=int), np.zeros(len(few)))
    if start is not None:
        predictor.load_state_dict(start.potential.state_dict())
        changed = "".join(
            f"; the {name} was {before}, now it is {now}"
            for name, before, now in (
                ("repulsion", form_of(start.potential)["repulsion"], task.repulsion),
                ("cutoff in Å", start.potential.cutoff, predictor.cutoff),
            )
            if before != now
        )
        console.print(
            f"Starting from the weights of {start.path}{changed}.", soft_wrap=True, markup=False, highlight=False
        )
    elif state is None:
        assert of_few is not None
        console.print(task.fit_units(predictor, few, of_few), highlight=False, soft_wrap=True)
    if recipe.finetune is not None:
        freeze(predictor, recipe.finetune)
    predictor.model.recompute = recipe.training.recompute
    return predictor, _sizes(recipe, learned, seen)


def _key(recipe: Recipe, parts: Parts) -> str:
    """A short name of the frames to learn and of whatever decides which their neighbours are."""
    return hashlib.sha256(json.dumps([fixed(recipe), parts.keys]).encode()).hexdigest()[:16]


def _seen_once(path: Path, look: Callable[[], Survey]) -> Survey:
    """What ``look`` finds, or what it found when it was asked before."""
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return Survey(**arrays)
    seen = look()
    write_arrays(path, seen._asdict())
    return seen


def refit_references(
    recipe: Recipe, task: Task, predictor: Predictor, parts: Parts, console: Console
) -> dict[int, float] | None:
    """Fit the reference energies of a fine-tuning; return their change (eV)."""
    if recipe.finetune is None:
        return None
    assert isinstance(task, PotentialTask)
    with console.status("fitting reference energies"):
        change = task.refit_references(predictor, _some(parts.train, recipe.seed))
    table = predictor.state_dict()["reference_energies"]
    words = ", ".join(f"{number}: {float(table[number]):.3f}" for number in change)
    console.print(f"Reference energies (eV) fitted anew: {words}.", highlight=False, soft_wrap=True)
    return change


def make_plan(recipe: Recipe, parts: Parts, sizes: np.ndarray) -> Plan:
    """Which frames make up which step; new and replayed ones meet in one batch, whatever their sizes are."""
    train, replay = parts.train, parts.replay
    if replay is None or recipe.finetune is None:
        return Plan(sizes, train.n_atoms, _target(recipe), recipe.seed, _widths(recipe, train, sizes))
    atoms = np.concatenate([train.n_atoms, replay.n_atoms])
    alike = np.zeros(len(sizes))
    return Plan(sizes, atoms, _target(recipe), recipe.seed, alike, len(replay), recipe.finetune.replay_share)


def _some(train: Frames, seed: int) -> Frames:
    """All frames, or a random part of very many: enough for references and scale, and not too much for the memory."""
    if len(train) <= UNITS_FRAMES:
        return train
    return train.take(np.sort(np.random.default_rng(seed).permutation(len(train))[:UNITS_FRAMES]))


def _sizes(recipe: Recipe, train: Frames, seen: Survey | None) -> np.ndarray:
    """What each frame counts in a batch: pairs, atoms or one."""
    if seen is not None:
        return seen.edges
    return train.n_atoms if recipe.training.batch_atoms is not None else np.ones(len(train), dtype=int)


def _widths(recipe: Recipe, train: Frames, sizes: np.ndarray) -> np.ndarray:
    """What frames of one batch have in common: the neighbours of an atom in crystals, in molecules the atoms."""
    crystals = recipe.training.batch_edges is not None and bool(train.pbc.any())
    return sizes / train.n_atoms if crystals else train.n_atoms


def _target(recipe: Recipe) -> int:
    training = recipe.training
    target = training.batch_edges or training.batch_atoms or training.batch_frames
    assert target is not None  # the recipe has one of them
    return target
