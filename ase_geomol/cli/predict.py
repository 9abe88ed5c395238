"""``ase-geomol predict``."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..files import write_atomically
from . import common

EPILOG = common.examples(
    ("the property of every structure in a file", "ase-geomol predict molecules.extxyz -m polarisability.safetensors"),
)


def predict(
    structures: Annotated[str, typer.Argument(help="A file that ASE reads.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Weights that were trained on a property.")],
    index: Annotated[str, typer.Option(help="Which structures, as ASE's slices.")] = ":",
    out: Annotated[Path | None, typer.Option(help="Table (default: NAME-PROPERTY.csv).", show_default=False)] = None,
    overwrite: common.OverwriteOption = False,
    device: common.DeviceOption = None,
) -> None:
    """Predict a property of molecules: a polarisability, a gap, whatever the weights were trained on."""
    from .. import PropertyPredictor, simulate

    predictor = PropertyPredictor(model, device)
    frames = simulate.load_structures(structures, index)
    path = out or Path(f"{Path(structures).stem}-{predictor.name}.csv")
    simulate.see_free(path, overwrite=overwrite)
    with common.progress() as bar:
        task = bar.add_task("Predicting", total=len(frames))
        values = predictor.predict(frames, lambda done: bar.update(task, completed=done))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["structure", "formula", f"{predictor.name} ({predictor.unit})"])
    for place, (atoms, value) in enumerate(zip(frames, values, strict=True)):
        table.writerow([place, str(atoms.symbols), f"{value:.8g}"])
    write_atomically(path, text.getvalue().encode())
    common.console.print(
        f"{predictor.name} of {len(values)} structures: mean {values.mean():.4g}, from {values.min():.4g} to "
        f"{values.max():.4g} {escape(predictor.unit)}"
    )
    common.console.print(f"[dim]results[/dim] {escape(str(path))}", soft_wrap=True)
