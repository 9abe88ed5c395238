"""A whole training: data, potential, Lightning, checkpoints, the exported weights."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from ase_geomol.checkpoint import Metadata, choose_device, load_any, load_checkpoint, save_checkpoint

from .alone import alone_in
from .batches import FrameSupply
from .beginning import make_plan, prepare, read_start, refit_references
from .conformers.flow_recipe import FlowRecipe
from .display import Display, errors_table
from .evaluate import predict_frames
from .frames import Frames, joined
from .keeper import MODEL, STOPPED, Keeper, Run
from .low_rank import learned_numbers
from .objective import Fitting
from .packed import packed_identity
from .parts import Parts, check_alike, metadata_of, read_parts
from .processes import Crew, check_processes, check_workers, on_this_machine, room_for_workers, workers_watched
from .recipe import Recipe
from .references import shifted
from .runs import (
    NOTHING_LEFT,
    Fitted,
    Times,
    check_end,
    extent_of,
    fixed,
    open_run,
    run_to_end,
    write_run_result,
)
from .schedule import Standing
from .sources import find_files
from .tasks import Task, task_of

__all__ = ["Fitted", "by_part", "fit"]

START = "start.safetensors"
"""Weights where a fine-tuning begins: those of ``model.start`` with new reference energies."""


def fit(
    recipe: Recipe | FlowRecipe,
    out: Path,
    *,
    time_budget: float | None = None,
    stop_after: float | None = None,
    resume: bool = False,
    threads: int | None = None,
    processes: int = 1,
    workers: int | None = None,
    console: Console | None = None,
) -> Fitted:
    """Train a potential, a property or a conformer model, and export it to ``out/model.safetensors``.

    A run that was stopped or killed goes on with ``resume``; on a CPU, with a schedule that counts steps and as many
    processes, it ends with the same bits as a run that was never stopped.

    Args:
        recipe: what to do.
        out: folder of this run.
        time_budget: s over all resumed runs, data and validation included; a cosine schedule ends with it.
        stop_after: s of this run alone, after which it pauses; the schedule knows nothing of it.
        resume: go on with the run in ``out``.
        threads: of torch on the CPU, in each process; None divides its choice among the processes.
        processes: share the work of each step, on CUDA with one device each. More than one start with a new
            interpreter each, so a script that calls this needs ``if __name__ == "__main__":``.
        workers: make the batches of each process ahead, in so many others; None: on CUDA those that the machine has
            room for, on a CPU none. What is learned does not depend on it.
        console: where progress is shown; default: standard output.

    Raises:
        ConfigError: the recipe asks for something impossible, or another process trains in ``out``.
        DataError: the data cannot be used.
        OutputError: ``out`` cannot be written.
        GeoMolError: one of the processes died.
    """
    times = Times(time_budget, stop_after)
    check_processes(processes)
    check_workers(workers or 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or max(1, before // on_this_machine(processes)))
    try:
        console = console or Console()
        crew = Crew(processes, room_for_workers(processes) if workers is None else workers)
        if crew.workers or torch.cuda.is_available():
            console.print(f"{crew.workers} workers make the batches of each process.", highlight=False)
        with workers_watched(), alone_in(out):
            if isinstance(recipe, FlowRecipe):
                from .conformers.fit import fit_flow  # needs RDKit

                return fit_flow(recipe, out, times, resume, crew, console)
            return _fit(recipe, out, times, resume, crew, console)
    finally:
        torch.set_num_threads(before)


def _fit(recipe: Recipe, out: Path, times: Times, resume: bool, crew: Crew, console: Console) -> Fitted:
    standing = Standing()
    check_end(recipe, times)
    state = open_run(out, recipe, resume)
    start = read_start(recipe.model.start, recipe) if recipe.model.start is not None and state is None else None
    if recipe.data.test is not None and packed_identity(recipe.data.test) is None:
        find_files(recipe.data.test)  # before the training data are read
    parts = read_parts(recipe, out, {} if state is None else state["identity"]["data"], console)
    task = task_of(recipe)
    metadata = metadata_of(recipe, parts)
    check_alike(recipe, parts, metadata)
    predictor, sizes = prepare(recipe, task, parts, state, start, out, crew.workers, console)
    change = refit_references(recipe, task, predictor, parts, console) if start is not None else None
    change = change if state is None else state["identity"].get("change")
    if start is not None and recipe.finetune is not None:
        save_checkpoint(out / START, predictor, start.metadata)
    plan = make_plan(recipe, parts, sizes)
    extent = extent_of(recipe, plan, times.budget)
    low_rank = recipe.finetune is not None and recipe.finetune.method == "low-rank"
    fitting = Fitting(
        recipe,
        predictor,
        task,
        parts.valid,
        extent,
        standing,
        rank=recipe.finetune.rank if recipe.finetune is not None and low_rank else None,
        validate_first=recipe.finetune is not None,
    )
    started_from = start.fingerprint if start is not None else None if state is None else state["identity"]["start"]
    run = Run(out, metadata, {"recipe": fixed(recipe), "data": parts.keys, "start": started_from, "change": change})
    keeper, display = Keeper(run, times.stop_at), Display(console)
    learned = parts.train if parts.replay is None else joined(parts.train, shifted(parts.replay, change or {}))
    of_steps = (plan, predictor.cutoff, task.disturb, recipe.training.validate_every, recipe.training.parts)
    supply = FrameSupply(learned, parts.valid, *of_steps)
    run_to_end(fitting, supply, keeper, display, crew, state)
    reason = keeper.stopped_by or NOTHING_LEFT
    card, before = _errors(recipe, task, parts, out, console, crew.workers, stopped=reason in STOPPED)
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
    more = {"before": before, "frames": fitted.frames, "learned": fitted.learned} if recipe.finetune else {}
    parameters = sum(parameter.numel() for parameter in predictor.parameters())
    write_run_result(recipe, fitted, parameters, times.budget, crew, more)
    told = f"{fitted.step} steps, {fitted.elapsed:.0f} s in all: {reason}. Weights: {out / MODEL}"
    console.print(told, soft_wrap=True, markup=False)
    return fitted


def _errors(
    recipe: Recipe, task: Task, parts: Parts, out: Path, console: Console, workers: int, *, stopped: bool
) -> tuple[Metadata, dict[str, float]]:
    """The card of the exported weights, and the errors where a fine-tuning began; a table shows both."""
    card = _measured(task, parts.test, out, workers, stopped=stopped)
    before = {} if recipe.finetune is None else _before(task, parts, out, workers, stopped=stopped)
    rows = {f"{part} before": found for part, found in by_part(before).items()} | by_part(card.errors)
    console.print(errors_table(f"{recipe.name}, best weights", rows))
    return card, before


def _measured(task: Task, frames: Frames | None, out: Path, workers: int, *, stopped: bool) -> Metadata:
    """The card of the exported weights; with the errors on the test frames, if there are any and time for them."""
    predictor, card, path, _ = load_any(out / MODEL, choose_device(None))
    if stopped or frames is None:
        return card
    found = task.errors(frames, predict_frames(predictor, frames, task, workers=workers))
    card = card.model_copy(update={"errors": {**card.errors, **{f"test_{k}": v for k, v in found.items()}}})
    save_checkpoint(path, predictor, card)
    return card


def _before(task: Task, parts: Parts, out: Path, workers: int, *, stopped: bool) -> dict[str, float]:
    """Errors of the weights where a fine-tuning began, named as those of a card."""
    predictor, found = load_checkpoint(out / START, choose_device(None)).potential, {}
    for name, frames in (("validation", parts.valid), ("test", None if stopped else parts.test)):
        if frames is not None:
            errors = task.errors(frames, predict_frames(predictor, frames, task, workers=workers))
            found |= {f"{name}_{quantity}": value for quantity, value in errors.items()}
    return found


def by_part(found: dict[str, float]) -> dict[str, dict[str, float]]:
    """Errors named ``validation_energy_…`` as {"validation": {"energy_…": …}}."""
    parts: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        part, _, quantity = name.partition("_")
        parts.setdefault(part, {})[quantity] = value
    return parts
