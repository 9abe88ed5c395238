"""``geomol-train``: the commands that make labels and weights. Words and progress only, no logic."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from ase_geomol.errors import GeoMolError

from . import data, labels, training, weights

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
for _command in (
    labels.label,
    labels.crystals,
    labels.conformers,
    labels.explore,
    training.fit,
    training.finetune,
    data.inspect,
    data.preprocess,
    data.convert,
    weights.evaluate,
    weights.evaluate_conformers,
    weights.submit,
    weights.points,
    weights.rigidity,
    training.nbody,
    weights.release,
):
    app.command()(_command)


@app.callback()
def _about() -> None:
    """Make the labels and weights of ase_geomol."""


def main() -> None:
    """Entry point: errors that a user can act on are one sentence, not a traceback."""
    try:
        app()
    except GeoMolError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
