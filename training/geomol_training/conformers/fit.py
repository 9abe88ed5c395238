"""The training of a conformer model: data, network, loop, the exported weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from ase_geomol.checkpoint import Metadata, load_conformers
from ase_geomol.errors import ConfigError, DataError
from ase_geomol.models import DiTMC
from ase_geomol.models.ditmc import ConformerFlow

from ..batches import Plan
from ..checks import describe_skipped
from ..display import Display, results_table
from ..keeper import MODEL, Keeper, Run
from ..objective import Fitting
from ..processes import Crew
from ..runs import NOTHING_LEFT, Fitted, Times, check_end, extent_of, fixed, open_run, run_to_end, write_run_result
from ..schedule import Standing
from ..splits import split_frames
from .data import LoadedSets, cache_file, load_sets
from .flow_recipe import FlowRecipe
from .learning import FlowGoal, FlowSupply
from .sets import ConformerSets, read_packed_sets


class FlowParts(NamedTuple):
    """Molecules to learn and to validate, and the keys of what was read."""

    train: ConformerSets
    valid: ConformerSets
    keys: dict[str, str]


def fit_flow(recipe: FlowRecipe, out: Path, times: Times, resume: bool, crew: Crew, console: Console) -> Fitted:
    """Train as `geomol_training.fit.fit` says, and export the weights to ``out/model.safetensors``."""
    standing = Standing()
    check_end(recipe, times)
    state = open_run(out, recipe, resume)
    parts = read_flow_parts(recipe, out, {} if state is None else state["identity"]["data"], console)
    flow = untrained_flow(recipe)
    plan = _plan(recipe, parts.train)
    extent = extent_of(recipe, plan, times.budget)
    fitting = Fitting(recipe, flow, FlowGoal(), parts.valid, extent, standing)
    run = Run(out, _metadata(recipe), {"recipe": fixed(recipe), "data": parts.keys, "start": None})
    keeper, display = Keeper(run, times.stop_at), Display(console)
    data, training = recipe.data, recipe.training
    supply = FlowSupply(
        train=parts.train,
        valid=parts.valid,
        plan=plan,
        elements=flow.elements,
        draws=data.draws,
        weights=data.weights,
        interval=training.validate_every,
        parts=training.parts,
    )
    run_to_end(fitting, supply, keeper, display, crew, state)
    reason = keeper.stopped_by or NOTHING_LEFT
    errors = load_conformers(out / MODEL).metadata.errors
    console.print(results_table(f"{recipe.name}, best weights", errors))
    parameters = sum(parameter.numel() for parameter in flow.parameters())
    fitted = Fitted(
        model=out / MODEL,
        step=standing.step,
        elapsed=keeper.elapsed,
        stopped_by=reason,
        ended_by=keeper.stopped_by or keeper.ended_before or NOTHING_LEFT,
        errors=errors,
        before={},
        frames={"training": len(parts.train), "validation": len(parts.valid)},
        elements=parts.train.elements,
        start=None,
        learned=parameters,
    )
    write_run_result(recipe, fitted, parameters, times.budget, crew, {"frames": fitted.frames})
    told = f"{fitted.step} steps, {fitted.elapsed:.0f} s in all: {reason}. Weights: {out / MODEL}"
    console.print(told, soft_wrap=True, markup=False)
    return fitted


def untrained_flow(recipe: FlowRecipe) -> ConformerFlow:
    """What the recipe makes with random weights, in its precision."""
    torch.manual_seed(recipe.seed)
    flow = ConformerFlow(DiTMC(recipe.model.built), recipe.flow)
    return flow.set_dtype(recipe.training.dtype)


def read_flow_parts(recipe: FlowRecipe, out: Path, known: dict[str, str], console: Console) -> FlowParts:
    """Molecules for training and validation; a resumed run keeps those it began with, by the keys ``known``.

    Raises:
        DataError: the data cannot be used, has an element that the network does not know, or has changed since a
            resumed run began, whose own copy is gone.
    """
    data, training = recipe.data, recipe.training
    loaded = _load(data.train, data.geom_splits, recipe, out, console, known.get("train"))
    train, keys = loaded.sets, {"train": loaded.key}
    if data.valid is None:
        splits = split_frames(train, data.split, recipe.seed)
        train, valid = train.take(splits.train), train.take(splits.valid)
    else:
        other = _load(data.valid, None, recipe, out, console, known.get("valid"))
        valid, keys["valid"] = other.sets, other.key
    train = _some(train, training.train_frames, recipe.seed)
    valid = _some(valid, training.valid_frames, recipe.seed)
    console.print(
        f"{len(train)} molecules with {len(train.weights)} conformers to learn, {len(valid)} molecules to validate.",
        highlight=False,
    )
    return FlowParts(train, valid, keys)


def _load(
    sources: str | tuple[str, ...],
    splits: str | None,
    recipe: FlowRecipe,
    out: Path,
    console: Console,
    known: str | None,
) -> LoadedSets:
    if known and cache_file(out, known).exists():
        return LoadedSets(*read_packed_sets(cache_file(out, known)), known)
    with console.status("reading data") as status:
        sets, skipped, key = load_sets(
            sources, splits, cache=out, report=lambda count: status.update(f"reading data: {count} molecules")
        )
    if known and key != known:
        raise DataError("The data has changed since the run began, and its own copy is gone: start anew.")
    if skipped:
        console.print(f"{describe_skipped(skipped)}.", highlight=False)
    unknown = sorted(set(sets.elements) - set(recipe.model.built.elements))
    if unknown:
        raise DataError(f"The data has the atomic numbers {unknown}, which model.config.elements lacks.")
    return LoadedSets(sets, skipped, key)


def _some(sets: ConformerSets, wanted: int | None, seed: int) -> ConformerSets:
    """So many of the molecules, drawn with the seed; all where there are no more."""
    if wanted is None or wanted >= len(sets):
        return sets
    return sets.take(np.sort(np.random.default_rng(seed).permutation(len(sets))[:wanted]))


def _plan(recipe: FlowRecipe, train: ConformerSets) -> Plan:
    """Which molecules make up which step; those of a batch are about equally large."""
    training, atoms = recipe.training, train.n_atoms
    for target, sizes in (
        (training.batch_edges, recipe.data.draws * atoms**2),
        (training.batch_atoms, recipe.data.draws * atoms),
        (training.batch_frames, np.ones(len(train), dtype=int)),
    ):
        if target is not None:
            return Plan(sizes, atoms, target, recipe.seed)
    raise ConfigError("training has no size of a batch.")  # the recipe makes sure that it has


def _metadata(recipe: FlowRecipe) -> Metadata:
    return Metadata(
        name=recipe.name,
        theory=recipe.metadata.theory,
        training_data=recipe.metadata.training_data,
        licence=recipe.metadata.licence,
        spins=(),
    )
