"""A whole training: data, potential, Lightning, checkpoints, the exported weights."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from ase.data import chemical_symbols
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from rich.console import Console

from ase_geomol.checkpoint import Checkpoint, Metadata, form_of, load_any, load_checkpoint, save_checkpoint
from ase_geomol.errors import ConfigError, DataError, GeoMolError, OutputError
from ase_geomol.files import make_folder, write_atomically
from ase_geomol.models import build_model

from .batches import FixedBatches, Plan, Survey, TrainingStream, fill_batches, loader, survey
from .checks import Limits, describe_skipped
from .data import Loaded, cache_file, load
from .display import Display, errors_table
from .evaluate import predict_frames
from .frames import Frames, joined, load_frames
from .keeper import LAST, MODEL, Keeper, Run, read_state
from .low_rank import learned_numbers
from .memory import keep_freed_memory
from .objective import Fitting
from .packed import packed_identity
from .processes import (
    Crew,
    Together,
    check_processes,
    check_workers,
    followers,
    on_this_machine,
    room_for_workers,
    workers_watched,
)
from .readers import Keys
from .recipe import Recipe
from .references import shifted
from .result import write_result
from .schedule import Extent, Standing, out_of_patience
from .sources import find_files
from .splits import of_part, split_frames
from .tasks import PotentialTask, Predictor, Task, task_of

FIXED_SECTIONS = ("seed", "data", "model", "finetune", "potential", "target", "relaxation", "loss")
FIXED_FIELDS = {
    "optimiser": ("name",),
    "training": ("train_frames", "valid_frames", "batch_edges", "batch_atoms", "batch_frames"),
}
"""Parts of a recipe, and fields of other parts, that must not change when a run is resumed."""
SPLITS = "splits.json"
START = "start.safetensors"
"""Weights where a fine-tuning begins: those of ``model.start`` with new reference energies."""
UNITS_FRAMES = 100_000
"""From so many frames at most, reference energies and scale are fitted."""


class Fitted(NamedTuple):
    """Where a training ended.

    Attributes:
        model: the exported potential with the lowest validation score.
        step: steps done over all runs.
        elapsed: s over all runs.
        stopped_by: what ended it.
        errors: of the exported potential, named ``validation_…`` and, where the recipe has a test, ``test_…``.
        before: likewise of the weights where a fine-tuning began, with the new reference energies.
        frames: how many were there to learn, to replay, to validate and to test.
        elements: atomic numbers of those to learn.
        start: fingerprint of ``model.start``.
        learned: how many numbers the training chose.
    """

    model: Path
    step: int
    elapsed: float
    stopped_by: str
    errors: dict[str, float]
    before: dict[str, float]
    frames: dict[str, int]
    elements: tuple[int, ...]
    start: str | None
    learned: int


class Parts(NamedTuple):
    """Frames to learn, to validate and, where ``train`` is divided so, to test; the keys of what is cached; and those
    of another theory to replay.
    """

    train: Frames
    valid: Frames
    test: Frames | None
    keys: dict[str, str]
    replay: Frames | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many frames each part has."""
        names = {"training": self.train, "replay": self.replay, "validation": self.valid, "test": self.test}
        return {name: 0 if frames is None else len(frames) for name, frames in names.items()}


def fit(
    recipe: Recipe,
    out: Path,
    *,
    time_budget: float | None = None,
    resume: bool = False,
    threads: int | None = None,
    processes: int = 1,
    workers: int | None = None,
    console: Console | None = None,
) -> Fitted:
    """Train a potential, or a property, and export it to ``out/model.safetensors``.

    A run that was stopped or killed goes on with ``resume``; on a CPU, with a schedule that counts steps and as many
    processes, it ends with the same bits as a run that was never stopped.

    Args:
        recipe: what to do.
        out: folder of this run.
        time_budget: s over all resumed runs, data and validation included; a cosine schedule ends with it.
        resume: go on with the run in ``out``.
        threads: of torch on the CPU, in each process; None divides its choice among the processes.
        processes: share the work of each step, on CUDA with one device each. More than one start with a new
            interpreter each, so a script that calls this needs ``if __name__ == "__main__":``.
        workers: make the batches of each process ahead, in so many others; None: on CUDA those that the machine has
            room for, on a CPU none. What is learned does not depend on it.
        console: where progress is shown; default: standard output.

    Raises:
        ConfigError: the recipe asks for something impossible.
        DataError: the data cannot be used.
        OutputError: ``out`` cannot be written.
        GeoMolError: one of the processes died.
    """
    check_processes(processes)
    check_workers(workers or 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, before // on_this_machine(processes)))
    try:
        crew = Crew(processes, room_for_workers(processes) if workers is None else workers)
        with workers_watched():
            return _fit(recipe, out, time_budget, resume, crew, console or Console())
    finally:
        torch.set_num_threads(before)


def _fit(recipe: Recipe, out: Path, time_budget: float | None, resume: bool, crew: Crew, console: Console) -> Fitted:
    standing = Standing()
    _check_end(recipe, time_budget)
    state = _open(out, recipe, resume)
    start = _start(recipe.model.start, recipe) if recipe.model.start is not None and state is None else None
    if recipe.data.test is not None and packed_identity(recipe.data.test) is None:
        find_files(recipe.data.test)  # before the training data are read
    parts = _frames(recipe, out, state, console)
    task = task_of(recipe)
    metadata = _metadata(recipe, parts)
    for name, frames in (("validation", parts.valid), ("test", parts.test)):
        if frames is not None:
            _check_part(name, frames, parts.train, metadata)
    predictor, sizes = _prepare(recipe, task, parts, state, start, crew, console)
    change = _new_references(recipe, task, predictor, parts, console) if start is not None else None
    change = change if state is None else state["identity"].get("change")
    if start is not None and recipe.finetune is not None:
        save_checkpoint(out / START, predictor, start.metadata)
    plan = _plan(recipe, parts, sizes)
    extent = _extent(recipe, plan, time_budget)
    fitting = Fitting(recipe, predictor, parts.valid, extent, standing)
    if state is not None:
        fitting.restore(state)
    standing.best = max(standing.best, _exported(out, task))  # killed between the checkpoint and the weights
    started_from = start.fingerprint if start is not None else None if state is None else state["identity"]["start"]
    run = Run(out, metadata, {"recipe": _fixed(recipe), "data": parts.keys, "start": started_from, "change": change})
    keeper, display = Keeper(run), Display(console)
    unfinished = extent.progress(standing.step, standing.elapsed) < 1
    unfinished &= not out_of_patience(standing, recipe.training.patience)
    if unfinished:
        learned = parts.train if parts.replay is None else joined(parts.train, shifted(parts.replay, change or {}))
        _train(fitting, learned, plan, keeper, display, crew)
    elif not (out / MODEL).exists():
        raise ConfigError(
            "Nothing was learned: the time budget (or the number of steps) was used up before a first validation. Run "
            f"again with a larger --time-budget{' and --resume' if (out / LAST).exists() else ''}."
        )
    elapsed, reason = standing.elapsed, keeper.stopped_by or "nothing was left to do"
    stopped = reason in ("interrupted", "terminated")
    card = _measured(task, parts.test, out, stopped=stopped)
    before = {} if recipe.finetune is None else _before(task, parts, out, stopped=stopped)
    rows = {f"{part} before": found for part, found in by_part(before).items()} | by_part(card.errors)
    console.print(errors_table(f"{recipe.name}, best weights", rows))
    chosen = learned_numbers(fitting.predictor, recipe.finetune)
    if unfinished and not stopped:
        result = {
            "recipe": recipe.model_dump(mode="json"),
            "start": started_from,
            "parameters": sum(parameter.numel() for parameter in predictor.parameters()),
            "steps": standing.step,
            "seconds": round(elapsed, 1),
            "time_budget": time_budget,
            "processes": crew.processes,
            "stopped_by": reason,
            "errors": card.errors,
            **({"before": before, "frames": parts.counts, "learned": chosen} if recipe.finetune else {}),
        }
        write_result(out, result)
    console.print(
        f"{standing.step} steps, {elapsed:.0f} s in all: {reason}. Weights: {out / MODEL}",
        soft_wrap=True,
        markup=False,
    )
    about = (parts.counts, parts.train.elements, started_from, chosen)
    return Fitted(out / MODEL, standing.step, elapsed, reason, card.errors, before, *about)


def _measured(task: Task, frames: Frames | None, out: Path, *, stopped: bool) -> Metadata:
    """The card of the exported weights; with the errors on the test frames, if there are any and time for them."""
    predictor, card, path, _ = load_any(out / MODEL)
    if stopped or frames is None:
        return card
    found = task.errors(frames, predict_frames(predictor, frames))
    card = card.model_copy(update={"errors": {**card.errors, **{f"test_{k}": v for k, v in found.items()}}})
    save_checkpoint(path, predictor, card)
    return card


def _before(task: Task, parts: Parts, out: Path, *, stopped: bool) -> dict[str, float]:
    """Errors of the weights where a fine-tuning began, named as those of a card."""
    predictor, found = load_checkpoint(out / START).potential, {}
    for name, frames in (("validation", parts.valid), ("test", None if stopped else parts.test)):
        if frames is not None:
            errors = task.errors(frames, predict_frames(predictor, frames))
            found |= {f"{name}_{quantity}": value for quantity, value in errors.items()}
    return found


def _exported(out: Path, task: Task) -> float:
    """Validation score of the weights in the folder, infinite where there are none."""
    if not (out / MODEL).exists():
        return math.inf
    return task.score(by_part(load_any(out / MODEL).metadata.errors).get("validation", {}))


def by_part(found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Errors named ``validation_energy_…`` as {"validation": {"energy_…": …}}."""
    parts: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        part, _, quantity = name.partition("_")
        parts.setdefault(part, {})[quantity] = value
    return parts


# --- the run's folder


def _open(out: Path, recipe: Recipe, resume: bool) -> dict[str, Any] | None:
    """Make the folder, write the recipe there; return the state to resume, if any."""
    make_folder(out)
    if resume:
        state = read_state(out / LAST, "identity")
        _same(state["identity"]["recipe"], _fixed(recipe))
    else:
        state = None
        if (out / LAST).exists():
            raise ConfigError(f"{out} holds a run: go on with --resume, or choose another folder with --out.")
        if (out / MODEL).exists():
            raise ConfigError(
                f"{out} holds {MODEL}, but no {LAST} to go on with: choose another folder with --out, or move it away."
            )
    write_atomically(out / "recipe.json", recipe.model_dump_json(indent=1).encode())
    return state


def _fixed(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    fields = {f"{part}.{name}": content[part][name] for part, names in FIXED_FIELDS.items() for name in names}
    return {section: content[section] for section in FIXED_SECTIONS} | fields


def _same(before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name, value in before.items() if value != now[name]]
    if changed:
        raise ConfigError(
            f"The run was started with another '{changed[0]}' in its recipe: start anew in another folder, or "
            "resume with the recipe it had (recipe.json in its folder)."
        )


# --- data


def _frames(recipe: Recipe, out: Path, state: dict[str, Any] | None, console: Console) -> Parts:
    """Frames for training, validation and test; a resumed run keeps those it began with."""
    known = {} if state is None else state["identity"]["data"]
    loaded = _load(recipe.data.train, recipe, recipe.elements, out, known.get("train"), console)
    train, test, keys = loaded.frames, None, {"train": loaded.key or ""}
    if recipe.data.valid is None:
        train, valid, test = _divided(recipe, loaded, out)
    else:
        if recipe.training.train_frames is not None:  # else they may be mapped from a disk, and stay there
            train = train.take(_chosen(len(train), recipe))
        elements = recipe.elements or train.elements
        other = _load(recipe.data.valid, recipe, elements, out, known.get("valid"), console)
        valid, keys["valid"] = other.frames, other.key or ""
    if recipe.data.test is not None:
        other = _load(recipe.data.test, recipe, recipe.elements or train.elements, out, known.get("test"), console)
        test, keys["test"] = other.frames, other.key or ""
    replay = None
    if recipe.finetune is not None and recipe.finetune.replay is not None:
        other = _load(recipe.finetune.replay, recipe, recipe.elements, out, known.get("replay"), console, Keys())
        replay, keys["replay"] = of_part(other.frames, "train", otherwise_all=True), other.key or ""
    limit = recipe.training.valid_frames
    if limit is not None and limit < len(valid):
        valid = valid.take(np.sort(np.random.default_rng(recipe.seed).permutation(len(valid))[:limit]))
    console.print(
        f"{len(train)} frames ({len(train.numbers)} atoms) to learn, {len(valid)} to validate.", highlight=False
    )
    if replay is not None:
        console.print(f"{len(replay)} frames to replay.", highlight=False)
    return Parts(train, valid, test, keys, replay)


def _divided(recipe: Recipe, loaded: Loaded, out: Path) -> tuple[Frames, Frames, Frames | None]:
    """Frames of the training source for training, validation and test; who is where is written down."""
    splits = split_frames(loaded.frames, recipe.data.split, recipe.seed)
    splits = splits._replace(train=splits.train[_chosen(len(splits.train), recipe)])
    packed = packed_identity(recipe.data.train) is not None
    content = {"data": str(recipe.data.train) if packed else cache_file(out, loaded.key or "").name}
    content |= {name: index.tolist() for name, index in splits._asdict().items()}
    write_atomically(out / SPLITS, json.dumps(content).encode())
    train, valid, test = (loaded.frames.take(index) for index in splits)
    return train, valid, test if len(test) else None


def _chosen(count: int, recipe: Recipe) -> np.ndarray:
    """Positions, among ``count`` frames to learn, of those that the recipe wants."""
    wanted = recipe.training.train_frames
    if wanted is None:
        return np.arange(count)
    if wanted > count:
        raise DataError(f"There are {count} frames to learn, fewer than {wanted}: ask for fewer, or give more data.")
    return np.sort(np.random.default_rng(recipe.seed).permutation(count)[:wanted])


def _load(
    sources: str | tuple[str, ...],
    recipe: Recipe,
    elements: tuple[int, ...] | None,
    out: Path,
    known: str | None,
    console: Console,
    keys: Keys | None = None,
) -> Loaded:
    if known and cache_file(out, known).exists():
        return Loaded(*load_frames(cache_file(out, known)), known)
    with console.status("reading data") as status:
        loaded = load(
            sources,
            keys or keys_of(recipe),
            Limits(elements, recipe.data.max_force, periodic=_may_repeat(recipe)),
            bad_rows=recipe.data.bad_rows,
            cache=out,
            report=lambda done, files: status.update(f"reading data: {done} of {files} files"),
        )
    if loaded.skipped:
        console.print(describe_skipped(loaded.skipped) + ".", highlight=False)
    if known and known != loaded.key:
        raise DataError("The data has changed since the run began, and its own copy is gone: start anew.")
    return loaded


def _may_repeat(recipe: Recipe) -> bool:
    """Whether structures may be periodic."""
    return recipe.model.built.cutoff is not None and (recipe.target is None or recipe.target.pooling in ("sum", "mean"))


def keys_of(recipe: Recipe) -> Keys:
    """The reader's keys that a recipe asks for."""
    data = recipe.data
    return Keys(
        energy=recipe.target.name if recipe.target else data.energy_key,
        forces=data.forces_key,
        stress=data.stress_key,
        group=data.group_key,
        labels=data.labels,
    )


# --- the potential and the plan


def _start(name: str, recipe: Recipe) -> Checkpoint:
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
    """All that weights must agree in; dropout shapes no weights, the repulsion has none."""
    form = form_of(potential)
    config = {name: value for name, value in form["config"].items() if not name.endswith("_dropout")}
    return {"architecture": form["architecture"], **config}


def untrained(recipe: Recipe, elements: tuple[int, ...]) -> Predictor:
    """What the recipe makes with random weights, in its precision; ``elements`` where the recipe names none."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model.architecture, {"elements": elements, **recipe.model.config})
    predictor = task_of(recipe).make(model)  # type: ignore[arg-type]
    return predictor.set_dtype(getattr(torch, recipe.training.precision))


def _prepare(
    recipe: Recipe,
    task: Task,
    parts: Parts,
    state: dict[str, Any] | None,
    start: Checkpoint | None,
    crew: Crew,
    console: Console,
) -> tuple[Predictor, np.ndarray]:
    """What is learned, with its references before the first step, and the size of each frame in a batch, those to
    replay last.
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
            return survey(frames, predictor.cutoff, report, task.repulsion, crew.workers)

        seen = look(learned) if everything else None
        of_few = seen if few is train else None
        if of_few is None and fresh:
            of_few = look(few) if task.repulsion > 0 else Survey(np.zeros(0, dtype=int), np.zeros(len(few)))
    if start is not None:
        predictor.load_state_dict(start.potential.state_dict())
        before = form_of(start.potential)["repulsion"]
        other = "" if before == task.repulsion else f", whose repulsion reached to {before:g}, now {task.repulsion:g}"
        console.print(
            f"Starting from the weights of {start.path}{other}.", soft_wrap=True, markup=False, highlight=False
        )
    elif state is None:
        assert of_few is not None
        console.print(task.fit_units(predictor, few, of_few), highlight=False, soft_wrap=True)
    return predictor, _sizes(recipe, learned, seen)


def _new_references(
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


def _plan(recipe: Recipe, parts: Parts, sizes: np.ndarray) -> Plan:
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


def _check_end(recipe: Recipe, time_budget: float | None) -> None:
    """Refuse a training without an end, or without time."""
    if time_budget is None and recipe.training.max_steps is None and recipe.training.max_epochs is None:
        raise ConfigError("Nothing ends this training: give training.max_steps, max_epochs or --time-budget.")
    if time_budget is not None and time_budget <= 0:
        raise ConfigError(f"A time budget of {time_budget:g} s leaves no time: give a longer one.")


def _extent(recipe: Recipe, plan: Plan, time_budget: float | None) -> Extent:
    """Steps and seconds after which a training is over."""
    steps = [recipe.training.max_steps] if recipe.training.max_steps is not None else []
    if recipe.training.max_epochs is not None:
        steps.append(plan.steps(recipe.training.max_epochs))
    return Extent(min(steps, default=None), time_budget)


def _metadata(recipe: Recipe, parts: Parts) -> Metadata:
    """The card; charge and spin are those of all structures but free atoms."""
    train = parts.train if parts.replay is None else joined(parts.train, parts.replay)
    data = recipe.metadata.training_data
    if recipe.finetune is not None:
        symbols = " ".join(chemical_symbols[number] for number in parts.train.elements)
        data += f", fine-tuned ({recipe.finetune.method}) on {len(parts.train)} frames with the elements {symbols}"
    many = train.n_atoms > 1 if (train.n_atoms > 1).any() else train.n_atoms > 0
    charges, spins = np.unique(train.charge[many]), np.unique(train.spin[many])
    if len(charges) > 1 or len(spins) > 1:
        raise DataError(
            f"The data has charges {', '.join(map(str, charges))} and spins {', '.join(map(str, spins))}; no model "
            "reads them, so train on structures of one charge and one spin."
        )
    return Metadata(
        name=recipe.name,
        theory=recipe.metadata.theory,
        training_data=data,
        licence=recipe.metadata.licence,
        charges=(int(charges[0]),),
        spins=(int(spins[0]),) if _spins_are_told(train, many) else (),
    )


def _check_part(name: str, frames: Frames, train: Frames, metadata: Metadata) -> None:
    """Refuse frames to validate or to test that are not of the kind that is learned."""
    missing = sorted(set(frames.elements) - set(train.elements))
    if missing:
        raise DataError(
            f"The {name} frames have the atomic numbers {missing}, which no training frame has: divide the data in "
            "another way, e.g. with another seed."
        )
    charges = sorted(set(frames.charge[frames.n_atoms > 1].tolist()) - set(metadata.charges))
    spins = sorted(set(frames.spin[frames.n_atoms > 1].tolist()) - set(metadata.spins or frames.spin.tolist()))
    if charges or spins:
        raise DataError(f"The {name} frames have charges {charges} and spins {spins} that no training frame has.")


def _spins_are_told(train: Frames, many: np.ndarray) -> bool:
    """Whether every multiplicity fits its number of electrons; else the data left it at the default."""
    electrons = np.add.reduceat(train.numbers, train.offsets[:-1]) - train.charge
    return bool(((electrons - train.spin)[many] % 2 == 1).all())


# --- Lightning


def _train(fitting: Fitting, train: Frames, plan: Plan, keeper: Keeper, display: Display, crew: Crew) -> None:
    """Run until the end of steps or time, or until someone stops it; only this process writes and shows anything."""
    out, threads = keeper.run.out, torch.get_num_threads()
    with _logs_are_writable(out), followers(crew.processes, _learn, fitting, train, plan, crew.workers, threads):
        loggers = [CSVLogger(out, name="logs", flush_logs_every_n_steps=1), TensorBoardLogger(out, name="tensorboard")]
        _learn(0, crew.processes, fitting, train, plan, crew.workers, threads, loggers, [keeper, display])


def _learn(
    rank: int,
    processes: int,
    fitting: Fitting,
    train: Frames,
    plan: Plan,
    workers: int,
    threads: int,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """The part of one process in a training."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    cutoff, standing, valid = fitting.predictor.cutoff, fitting.standing, fitting.valid
    interval = fitting.recipe.training.validate_every
    here = on_this_machine(processes)
    parts, disturb = fitting.recipe.training.parts, fitting.task.disturb
    stream = TrainingStream(train, plan, cutoff, interval, lambda: standing.step, rank, processes, disturb, parts)
    batches = fill_batches(np.arange(len(valid)), valid.n_atoms, 512)[rank::processes]
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=here,
            num_nodes=processes // here,
            strategy="auto" if processes == 1 else Together(rank),
            max_epochs=-1,
            accumulate_grad_batches=parts,
            logger=loggers,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            # A fine-tuning begins with a validation: the weights where it begins are the first to be the best.
            num_sanity_val_steps=-1 if fitting.recipe.finetune is not None and math.isinf(standing.best) else 0,
            inference_mode=False,
        )
        if trainer.world_size != processes:
            raise ConfigError("torchrun must start as many processes on each machine: one --nproc-per-node for all.")
        trainer.fit(fitting, loader(stream, workers), loader(FixedBatches(valid, batches, cutoff), workers))


@contextmanager
def _logs_are_writable(out: Path) -> Iterator[None]:
    """What the loggers inside cannot write becomes a sentence."""
    try:
        yield
    except GeoMolError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write the logs into {out}: {error.strerror or error}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Advice about workers, devices, loggers and strides is not for the user of a command."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        logger.setLevel(level)
