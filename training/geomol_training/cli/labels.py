"""Labels: ``geomol-train label``, ``crystals``, ``conformers`` and ``explore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .common import Changes, packages, parse_duration, stoppable


def label(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the labels.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/organic"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label molecules with GFN2-xTB energies and forces.

    Example: `geomol-train label training/recipes/shipped/geomformer_organic_labels.yaml --first 501
    --out data/organic`
    """
    with packages("labels", "Labelling"):
        from ..labelling.recipe import load_recipe
        from ..labelling.report import Display
        from ..labelling.run import make_labels

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_recipe(recipe, changes or ())
    with stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_labels(settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)


def crystals(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the labels.")],
    teacher: Annotated[Path, typer.Option(help="Python of an environment that has the teacher.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/crystals"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label crystals with another potential, the teacher, which needs no more than ASE in an environment of its own.

    Example: `geomol-train crystals training/recipes/shipped/est_crystal_labels.yaml --teacher sevenn/bin/python`
    """
    with packages("labels", "Labelling"):
        from ..crystals.recipe import load_crystal_recipe
        from ..crystals.run import make_crystal_labels
        from ..labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_crystal_recipe(recipe, changes or ())
    with stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_crystal_labels(settings, teacher, out, workers, budget, display.update, first)
    display.summary(manifest, out)


def conformers(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of the sets of conformers.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 40min.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path("data/conformers"),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Find the conformers of molecules: minima of GFN2-xTB, their energies and Boltzmann weights, from SMILES alone.

    Example: `geomol-train conformers training/recipes/shipped/ditmc_small_conformers.yaml --time-budget 2h`
    """
    with packages("labels", "Labelling"):
        from ..conformers.recipe import load_conformer_recipe
        from ..conformers.run import make_conformers
        from ..labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_conformer_recipe(recipe, changes or ())
    with stoppable(out), Display(Console(), settings.name) as display:
        manifest = make_conformers(settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)


def explore(
    checkpoint: Annotated[str, typer.Argument(help="A .safetensors file, or the name of a shipped potential.")],
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of what is explored.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this time, e.g. 2h.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the shards; run again to resume.")] = Path(
        "data/organic_explored"
    ),
    first: Annotated[int | None, typer.Option(min=1, help="Only the first jobs: a balanced part of all.")] = None,
    changes: Changes = None,
) -> None:
    """Label more frames where a potential errs: those of its own dynamics with the largest force errors.

    Example: `geomol-train explore runs/geomformer-organic/model.safetensors
    training/recipes/shipped/geomformer_organic_explore.yaml --out data/organic_explored`
    """
    with packages("labels", "Labelling"):
        from ..labelling.explore import explore as run_explore
        from ..labelling.recipe import load_explore_recipe
        from ..labelling.report import Display

    budget = None if time_budget is None else parse_duration(time_budget)
    settings = load_explore_recipe(recipe, changes or ())
    with stoppable(out), Display(Console(), settings.name) as display:
        manifest = run_explore(checkpoint, settings, out, workers, budget, display.update, first)
    display.summary(manifest, out)
    display.explored(manifest)
