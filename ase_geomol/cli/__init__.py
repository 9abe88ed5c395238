"""Command line ``ase-geomol``: words, progress and pictures around `ase_geomol.simulate`."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer
from ase.calculators import calculator as ase_calculators

from . import conformers, crystals, evaluate, md, models, neb, predict, relax
from .common import Group, console, examples

__all__ = ["app", "main"]


class _LazyCalculator:
    """What ASE knows as "geomol": makes a `GeoMolCalculator`, and imports it only then."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        from ..calculator import GeoMolCalculator

        return GeoMolCalculator(*args, **kwargs)


if "geomol" not in ase_calculators.external_calculators:
    ase_calculators.register_calculator_class("geomol", _LazyCalculator)

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        ("relax ethanol from its SMILES string", "ase-geomol relax CCO"),
        ("1 ps of molecular dynamics at 300 K", "ase-geomol md C6H6 --temperature 300 --time 1ps"),
        ("conformers of a molecule, ranked", "ase-geomol conformers CCCO -n 20 --relax"),
        ("bulk modulus of a crystal", "ase-geomol eos NaCl.cif"),
        ("which potentials there are", "ase-geomol models"),
        ("how good one is on your own data", "ase-geomol evaluate data.extxyz"),
    ),
)
app.command(epilog=relax.EPILOG)(relax.relax)
app.command(epilog=md.EPILOG)(md.md)
app.command(epilog=conformers.EPILOG)(conformers.conformers)
app.command(epilog=crystals.EOS_EPILOG)(crystals.eos)
app.command(epilog=crystals.ELASTIC_EPILOG)(crystals.elastic)
app.command(epilog=crystals.PHONONS_EPILOG)(crystals.phonons)
app.command(epilog=crystals.SURFACE_EPILOG, context_settings={"ignore_unknown_options": True})(  # negative indices
    crystals.surface
)
app.command(epilog=neb.EPILOG)(neb.neb)
app.command(epilog=models.EPILOG)(models.models)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=predict.EPILOG)(predict.predict)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(f"ase-geomol {version('ase_geomol')}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Relax molecules and crystals and run their dynamics with equivariant-transformer potentials."""


def main() -> None:
    """Entry point of the console script. SIGTERM, by which queues end a job, is as good as Ctrl-C: results are kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
