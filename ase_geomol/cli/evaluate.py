"""``ase-geomol evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..files import make_folder
from . import common

if TYPE_CHECKING:
    from ..simulate import Evaluation

EPILOG = common.examples(
    ("energies and forces of every structure in a file", "ase-geomol evaluate data.extxyz"),
    ("every tenth structure, with your own weights", "ase-geomol evaluate data.traj --index ::10 -m my.safetensors"),
)


def evaluate(
    data: Annotated[str, typer.Argument(help="A file that ASE reads, with energies and forces.", show_default=False)],
    model: common.ModelOption = common.BY_ELEMENTS,
    index: Annotated[str, typer.Option(help="Which structures, as ASE's slices.")] = ":",
    out: Annotated[Path | None, typer.Option(help="Folder (default: NAME-evaluate).", show_default=False)] = None,
    overwrite: common.OverwriteOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
    skin: common.SkinOption = 0.5,
) -> None:
    """Measure the errors of a potential on labelled structures.

    Writes errors.csv, one line for each structure, and parity.png.
    """
    from .. import simulate

    frames = simulate.load_structures(data, index)
    folder = out or Path(f"{Path(data).stem}-evaluate")
    simulate.see_free(folder / "errors.csv", overwrite=overwrite)
    make_folder(folder)
    calculator = common.calculator(model, frames, dtype, device, skin)
    with common.progress() as bar:
        task = bar.add_task("Evaluating", total=len(frames))
        result = simulate.evaluate(frames, calculator, lambda done: bar.update(task, completed=done))
    result.write_csv(folder / "errors.csv")
    simulate.parity_picture(folder / "parity.png", result, title=f"{Path(data).name} with {calculator.name}")
    _print(result, calculator.name)
    common.console.print(f"[dim]results[/dim] {escape(str(folder))}", soft_wrap=True)


def _print(result: Evaluation, name: str) -> None:
    title = escape(f"{name} on {len(result.n_atoms)} structures")
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("MAE", "RMSE"):
        table.add_column(column, justify="right")
    for quantity, (mae, rmse) in result.errors.items():
        table.add_row(quantity, f"{mae:.2f}", f"{rmse:.2f}")
    common.console.print(table)
