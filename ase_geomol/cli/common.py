"""What the commands share: words for errors, options, structures, progress. Heavy imports wait until they run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

if TYPE_CHECKING:
    from ase import Atoms

    from ..calculator import GeoMolCalculator

console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)

FEMTOSECONDS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}
BARS = {"bar": 1.0, "kbar": 1e3, "atm": 1.01325, "MPa": 10.0, "GPa": 1e4}


class Group(TyperGroup):
    """Shows an error that the user can act on as one line, and leaves quietly on Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        from ..errors import GeoMolError

        try:
            return super().invoke(ctx)
        except GeoMolError as error:
            if ctx.params.get("debug"):
                raise
            errors.print(f"[red]Error:[/red] [red]{escape(str(error))}[/red]", soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


def quantity(units: dict[str, float], example: str) -> Any:
    """Make a parser of numbers with a unit; the value comes in the unit whose factor is 1."""

    def parse(text: Any) -> float:
        if isinstance(text, float):  # parsed already
            return text
        match = re.fullmatch(r"\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([A-Za-z]+)\s*", text)
        if match is None or match[2] not in units:
            raise typer.BadParameter(f"'{text}' needs a number and a unit ({', '.join(units)}): {example}.")
        try:
            value = float(match[1]) * units[match[2]]
        except ValueError as error:
            raise typer.BadParameter(f"'{match[1]}' is no number.") from error
        if not isfinite(value):
            raise typer.BadParameter(f"'{text}' is too large.")
        return value

    return parse


parse_time = quantity(FEMTOSECONDS, "1ps or 500fs")
parse_pressure = quantity(BARS, "1bar or 2GPa")

ORGANIC, CRYSTAL = "geomformer-organic", "est-crystal"
FEW_FRAMES = 20
"""Whose bonds are looked at where there are many."""

StructureArgument = Annotated[
    str,
    typer.Argument(
        metavar="STRUCTURE",
        help="A file that ASE reads, a SMILES string, or a name of ASE's g2 collection ('C6H6').",
        show_default=False,
    ),
]
CrystalArgument = Annotated[
    str, typer.Argument(metavar="STRUCTURE", help="A crystal, as a file that ASE reads.", show_default=False)
]
ModelOption = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="A shipped potential or a file of weights; several times for a committee. Default: by elements and bonds, "
        f"{ORGANIC} or {CRYSTAL}.",
        show_default=False,
    ),
]
NamedModelOption = Annotated[
    list[str],
    typer.Option("--model", "-m", help="A shipped potential or a file of weights; several times for a committee."),
]
DtypeOption = Annotated[str, typer.Option(help="Precision of the network: float32 or float64.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu or cuda; default: CUDA if there is one.", show_default=False)
]
SkinOption = Annotated[float, typer.Option(help="Å, of the neighbour list.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
BY_ELEMENTS: list[str] = []
"""No model was named: :func:`calculator` takes one by the elements."""
FOR_MOLECULES, FOR_CRYSTALS = [ORGANIC], [CRYSTAL]


def examples(*lines: tuple[str, str]) -> str:
    """Help text below a command: what it is for, and what to type."""
    parts = ["[bold]Examples[/bold]"]
    for purpose, command in lines:
        parts.append(f"[dim]# {purpose}[/dim]\n  [cyan]{command}[/cyan]")
    return "\n\n".join(parts)


def calculator(
    model: Sequence[str], frames: Iterable[Atoms], dtype: str, device: str | None, skin: float
) -> GeoMolCalculator:
    """Load one potential, or a committee of several; where none is named, the one for the elements of ``frames``."""
    from ..calculator import GeoMolCalculator

    model = model or [_potential_for(frames)]
    names = model[0] if len(model) == 1 else list(model)
    return GeoMolCalculator(names, dtype=dtype, device=device, skin=skin)  # type: ignore[arg-type]


def _potential_for(frames: Iterable[Atoms]) -> str:
    from ..checkpoint import shipped_models
    from ..simulate import is_endless

    frames = list(frames)
    known = shipped_models()[ORGANIC].elements
    organic = all(number in known for atoms in frames for number in atoms.numbers)
    endless = [is_endless(atoms) for atoms in frames[:FEW_FRAMES]]
    chosen = ORGANIC if organic and not any(endless) else CRYSTAL
    console.print(f"[dim]potential {chosen}, by elements and bonds (-m takes another one)[/dim]")
    if not organic and not all(endless):
        errors.print(
            f"[yellow]{CRYSTAL} learned no molecules, and {ORGANIC} does not know all elements: do not trust the "
            "numbers of what is no crystal.[/yellow]",
            soft_wrap=True,
        )
    return chosen


def structure(text: str) -> tuple[Atoms, str]:
    """Load a structure, say what was understood, and give it a name for its results."""
    from ..simulate import interpret, load_structure

    kind, plain = interpret(text)
    single = kind == "smiles" and "." not in plain
    atoms = _molecule(plain) if single else load_structure(text)
    formula = atoms.get_chemical_formula()
    name = {"file": Path(plain).stem, "g2": plain, "smiles": formula}[kind]
    words = {"file": "file", "g2": "g2 collection", "smiles": "SMILES"}[kind]
    source = f"[dim](from {words}: {escape(plain)})[/dim]"
    console.print(f"[bold]{formula}[/bold], {len(atoms)} atoms {source}", soft_wrap=True)
    return atoms, name


def _molecule(smiles: str) -> Atoms:
    """One molecule by RDKit, with charge and spin where it is an ion or a radical."""
    from ase import Atoms

    from ..simulate.structures import read_molecules

    read_molecules(smiles)  # says what else the text is not
    from .. import RDKitProvider

    (made,) = RDKitProvider().sample(smiles)
    info = {key: made.info[key] for key, usual in (("charge", 0), ("spin", 1)) if made.info[key] != usual}
    masses = made.get_masses() if made.has("masses") else None
    return Atoms(made.numbers, made.positions, masses=masses, info=info)


def see_apart(structures: Iterable[str], replaced: Iterable[Path]) -> None:
    """Refuse to replace a structure's own file by results; raises :class:`OutputError`."""
    from ..errors import OutputError

    files = [path for path in replaced if path.exists()]
    for text in filter(os.path.isfile, structures):
        if any(path.samefile(text) for path in files):
            raise OutputError(f"{text} would be replaced by results: choose another folder with --out.")


def progress(*columns: str) -> Progress:
    """Make a progress bar with the fields ``columns`` of its task at the right."""
    fields = [TextColumn("{task.fields[" + name + "]}") for name in columns]
    bar = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*bar, *fields, console=console, transient=True)


def summary(title: str, rows: Iterable[tuple[str, str | Text]]) -> None:
    """Print a table of two columns; strings are printed as they are, without markup."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value) if isinstance(value, str) else value)
    console.print(table)
