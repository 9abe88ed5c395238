"""A whole training: data, potential, Lightning, checkpoints, the exported weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from ase_geomol.checkpoint import Metadata, load_any, load_checkpoint, save_checkpoint
from ase_geomol.errors import ConfigError
from ase_geomol.files import make_folder, write_atomically

from .batches import Plan
from .beginning import make_plan, prepare, read_start, refit_references
from .display import Display, errors_table
from .evaluate import predict_frames
from .frames import Frames, joined
from .keeper import LAST, MODEL, Keeper, Run, read_state
from .loop import train
from .low_rank import learned_numbers
from .objective import Fitting
from .packed import packed_identity
from .parts import Parts, check_alike, metadata_of, read_parts
from .processes import Crew, check_processes, check_workers, on_this_machine, room_for_workers, workers_watched
from .recipe import Recipe
from .references import shifted
from .result import write_result
from .schedule import Extent, Standing, out_of_patience
from .sources import find_files
from .tasks import Predictor, Task, task_of

FIXED_SECTIONS = ("seed", "data", "model", "finetune", "potential", "target", "relaxation", "loss")
FIXED_FIELDS = {
    "optimiser": ("name",),
    "training": ("train_frames", "valid_frames", "batch_edges", "batch_atoms", "batch_frames"),
}
"""Parts of a recipe, and fields of other parts, that must not change when a run is resumed."""
START = "start.safetensors"
"""Weights where a fine-tuning begins: those of ``model.start`` with new reference energies."""
STOPPED = ("interrupted", "terminated")
NOTHING_LEFT = "nothing was left to do"


class Fitted(NamedTuple):
    """Where a training ended.

    Attributes:
        model: the exported potential with the lowest validation score.
        step: steps done over all runs.
        elapsed: s over all runs.
        stopped_by: what ended this run.
        ended_by: what ended the training: this run, or where nothing was left to do, an earlier one.
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
    ended_by: str
    errors: dict[str, float]
    before: dict[str, float]
    frames: dict[str, int]
    elements: tuple[int, ...]
    start: str | None
    learned: int


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
    start = read_start(recipe.model.start, recipe) if recipe.model.start is not None and state is None else None
    if recipe.data.test is not None and packed_identity(recipe.data.test) is None:
        find_files(recipe.data.test)  # before the training data are read
    parts = read_parts(recipe, out, {} if state is None else state["identity"]["data"], console)
    task = task_of(recipe)
    metadata = metadata_of(recipe, parts)
    check_alike(parts, metadata)
    predictor, sizes = prepare(recipe, task, parts, state, start, crew.workers, console)
    change = refit_references(recipe, task, predictor, parts, console) if start is not None else None
    change = change if state is None else state["identity"].get("change")
    if start is not None and recipe.finetune is not None:
        save_checkpoint(out / START, predictor, start.metadata)
    plan = make_plan(recipe, parts, sizes)
    extent = _extent(recipe, plan, time_budget)
    fitting = Fitting(recipe, predictor, parts.valid, extent, standing)
    started_from = start.fingerprint if start is not None else None if state is None else state["identity"]["start"]
    run = Run(out, metadata, {"recipe": _fixed(recipe), "data": parts.keys, "start": started_from, "change": change})
    keeper, display = Keeper(run), Display(console)
    if state is not None:
        keeper.restore(fitting, state)
    unfinished = extent.progress(standing.step, standing.elapsed) < 1
    unfinished &= not out_of_patience(standing, recipe.training.patience)
    if unfinished:
        learned = parts.train if parts.replay is None else joined(parts.train, shifted(parts.replay, change or {}))
        train(fitting, learned, plan, keeper, display, crew)
    elif not (out / MODEL).exists():
        raise ConfigError(
            "Nothing was learned: the time budget (or the number of steps) was used up before a first validation. Run "
            f"again with a larger --time-budget{' and --resume' if (out / LAST).exists() else ''}."
        )
    reason = keeper.stopped_by or NOTHING_LEFT
    card, before = _errors(recipe, task, parts, out, console, stopped=reason in STOPPED)
    fitted = Fitted(
        model=out / MODEL,
        step=standing.step,
        elapsed=keeper.elapsed,
        stopped_by=reason,
        ended_by=keeper.stopped_by or keeper.ended_before or NOTHING_LEFT,
        errors=card.errors,
        before=before,
        frames=parts.counts,
        elements=parts.train.elements,
        start=started_from,
        learned=learned_numbers(fitting.predictor, recipe.finetune),
    )
    if unfinished and reason not in STOPPED:
        _write_result(recipe, fitted, predictor, time_budget, crew)
    told = f"{fitted.step} steps, {fitted.elapsed:.0f} s in all: {reason}. Weights: {out / MODEL}"
    console.print(told, soft_wrap=True, markup=False)
    return fitted


def _errors(
    recipe: Recipe, task: Task, parts: Parts, out: Path, console: Console, *, stopped: bool
) -> tuple[Metadata, dict[str, float]]:
    """The card of the exported weights, and the errors where a fine-tuning began; a table shows both."""
    card = _measured(task, parts.test, out, stopped=stopped)
    before = {} if recipe.finetune is None else _before(task, parts, out, stopped=stopped)
    rows = {f"{part} before": found for part, found in by_part(before).items()} | by_part(card.errors)
    console.print(errors_table(f"{recipe.name}, best weights", rows))
    return card, before


def _write_result(recipe: Recipe, fitted: Fitted, predictor: Predictor, time_budget: float | None, crew: Crew) -> None:
    more = {"before": fitted.before, "frames": fitted.frames, "learned": fitted.learned} if recipe.finetune else {}
    result = {
        "recipe": recipe.model_dump(mode="json"),
        "start": fitted.start,
        "parameters": sum(parameter.numel() for parameter in predictor.parameters()),
        "steps": fitted.step,
        "seconds": round(fitted.elapsed, 1),
        "time_budget": time_budget,
        "processes": crew.processes,
        "stopped_by": fitted.stopped_by,
        "errors": fitted.errors,
        **more,
    }
    write_result(fitted.model.parent, result)


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
