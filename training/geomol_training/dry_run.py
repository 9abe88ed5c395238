"""What a recipe would do: data and weights found or missing, the network's size, steps, memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from ase_geomol.errors import DataError, GeoMolError, MissingExtraError

from .beginning import read_start, untrained
from .conformers.flow_recipe import FlowRecipe
from .estimate import TOO_MUCH, Estimate, estimate
from .packed import packed_identity
from .readers import files_read
from .recipe import Recipe
from .sections import TrainingRecipe
from .sources import find_files
from .tasks import PotentialTask, PropertyTask, RelaxationTask, task_of

COPIES = {"adam": 5, "adamw": 5, "muon": 5}
"""Weights, gradients, two moments (Muon: one, but not for all), running mean: numbers in memory for each parameter."""
READ_AT_MOST = 50e6
"""Bytes of data that are read to count steps and to try some; packed data may have any number."""
KINDS = {PotentialTask: "a potential", PropertyTask: "a property", RelaxationTask: "ends of relaxations"}


def describe(recipe: Recipe | FlowRecipe, time_budget: float | None, processes: int = 1) -> tuple[Table, bool]:
    """A table of what would run in so many processes, and whether all data, and weights where it begins, are there."""
    table = Table(title=recipe.name, show_header=False)
    found: Estimate | None = None
    if isinstance(recipe, FlowRecipe):
        complete = _describe_flow(table, recipe)
    else:
        found, complete = _describe_frames(table, recipe, processes)
    table.add_row("batches", _batches(recipe, found))
    table.add_row("ends", _end(recipe, time_budget, found))
    return table, complete


def _describe_frames(table: Table, recipe: Recipe, processes: int) -> tuple[Estimate | None, bool]:
    complete = True
    replay = None if recipe.finetune is None else recipe.finetune.replay
    data = {"train": recipe.data.train, "valid": recipe.data.valid, "test": recipe.data.test, "replay": replay}
    for part, sources in data.items():
        if sources is not None:
            words, found = _found(sources)
            complete &= found
            table.add_row(f"data to {part}", words)
    if recipe.model.start is not None:
        words, found = _start(recipe.model.start, recipe)
        complete &= found
        table.add_row("starts from", words)
    task = task_of(recipe)
    table.add_row("learns", KINDS[type(task)])
    predictor = untrained(recipe, recipe.elements or tuple(range(1, 11)))
    count = sum(parameter.numel() for parameter in predictor.parameters())
    of_data = "" if recipe.elements else ", for ten elements: those of the data are taken"
    table.add_row("network", f"{recipe.model.architecture}, {count:,} parameters{of_data}")
    looked = None
    try:
        looked = estimate(recipe) if _soon_read(recipe.data.train) else None
        more = "what a step takes is told of data that are there, up to 50 MB of them or packed"
    except GeoMolError as error:
        complete, more = False, f"unusable data: {error}"
    table.add_row(
        "memory", f"{_memory(recipe, count)}; {more if looked is None else _of_step(recipe, looked, processes)}"
    )
    return looked, complete


def _soon_read(sources: str | tuple[str, ...]) -> bool:
    """Whether they are there, and take no time to read."""
    if not _found(sources)[1]:
        return False
    small = packed_identity(sources) is not None
    return small or sum(file.stat().st_size for file in find_files(sources)) <= READ_AT_MOST


def _of_step(recipe: Recipe, found: Estimate, processes: int) -> str:
    if math.isinf(found.activations):
        return f"a step with one structure takes more than {TOO_MUCH / 1e9:.0f} GB"
    parts = "" if recipe.training.parts == 1 else f", in {recipe.training.parts} parts"
    share = "" if processes == 1 else f", in each of {processes} processes"
    megabytes = found.activations / processes / 1e6
    return f"about {megabytes:,.0f} MB for a step with {found.atoms:,} atoms{parts}{share}"


def _describe_flow(table: Table, recipe: FlowRecipe) -> bool:
    from .conformers.data import files_of  # needs RDKit
    from .conformers.fit import untrained_flow

    def files(sources: str | tuple[str, ...]) -> list[Path]:
        return [file for source in ([sources] if isinstance(sources, str) else sources) for file in files_of(source)]

    complete = True
    for part, sources in {"train": recipe.data.train, "valid": recipe.data.valid}.items():
        if sources is not None:
            words, found = _found(sources, files)
            complete &= found
            table.add_row(f"data to {part}", words)
    count = sum(parameter.numel() for parameter in untrained_flow(recipe).parameters())
    table.add_row("learns", "conformers")
    table.add_row("network", f"{recipe.model.architecture}, {count:,} parameters")
    table.add_row("memory", f"{_memory(recipe, count)}; activations come on top")
    return complete


def _memory(recipe: TrainingRecipe, parameters: int) -> str:
    megabytes = COPIES[recipe.optimiser.name] * recipe.training.dtype.itemsize * parameters / 1e6
    return f"{megabytes:,.0f} MB for weights, gradients, optimiser and mean"


def _found(
    sources: str | tuple[str, ...], find: Callable[[str | tuple[str, ...]], list[Path]] = find_files
) -> tuple[str, bool]:
    try:
        if packed_identity(sources) is not None:
            return f"{sources}: packed", True
        files = find(sources)
    except (DataError, MissingExtraError) as error:
        return f"missing: {error}", False
    megabytes = sum(read.stat().st_size for file in files for read in files_read(file)) / 1e6
    return f"{len(files)} files, {megabytes:,.0f} MB", True


def _start(name: str, recipe: Recipe) -> tuple[str, bool]:
    try:
        start = read_start(name, recipe)
    except GeoMolError as error:
        return f"unusable: {error}", False
    return f"{start.metadata.name}, {start.path}", True


def _batches(recipe: TrainingRecipe, found: Estimate | None) -> str:
    training = recipe.training
    sizes = {"pairs": training.batch_edges, "atoms": training.batch_atoms, "structures": training.batch_frames}
    words = next(f"{size:,} {unit}" for unit, size in sizes.items() if size is not None)
    words = words if training.parts == 1 else f"{words}, in {training.parts} parts"
    return words if found is None else f"{words}; {found.frames:,} structures to learn are {_about(found)} in an epoch"


def _about(found: Estimate, epochs: int = 1) -> str:
    return f"about {epochs * found.steps:,} steps"


def _end(recipe: TrainingRecipe, time_budget: float | None, found: Estimate | None) -> str:
    training = recipe.training
    ends = [f"{training.max_steps:,} steps"] if training.max_steps is not None else []
    if training.max_epochs is not None:
        counted = "" if found is None else f" ({_about(found, training.max_epochs)})"
        ends.append(f"{training.max_epochs:,} epochs{counted}")
    ends += [f"{time_budget:,.0f} s"] if time_budget is not None else []
    return " or ".join(ends) + (", whichever comes first" if len(ends) > 1 else "") if ends else "never: give an end"
