"""``ase-geomol relax``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..files import make_folder
from . import common

if TYPE_CHECKING:
    from ase import Atoms

EPILOG = common.examples(
    ("a molecule: ethanol as SMILES, benzene by its g2 name, or a file", "ase-geomol relax CCO"),
    ("tightly, in double precision", "ase-geomol relax C6H6 --fmax 0.0005 --dtype float64"),
    ("a crystal with its cell; only the structure, as one file", "ase-geomol relax ice.cif --cell --out relaxed.cif"),
    ("with a committee of two", "ase-geomol relax mol.xyz -m one.safetensors -m two.safetensors"),
)


def relax(
    structure: common.StructureArgument,
    model: common.ModelOption = common.BY_ELEMENTS,
    fmax: Annotated[float, typer.Option(help="eV/Å; stop when no force is larger.")] = 0.01,
    steps: Annotated[int, typer.Option(help="Stop after this many.")] = 1000,
    optimizer: Annotated[
        str | None, typer.Option(help="BFGS, LBFGS or FIRE; default: by the number of atoms.", show_default=False)
    ] = None,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder (default: NAME-relax), or a file that ASE writes.", show_default=False),
    ] = None,
    overwrite: common.OverwriteOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
    skin: common.SkinOption = 0.5,
) -> None:
    """Relax a structure to the nearest minimum of its energy.

    Writes relaxed.extxyz, trajectory.extxyz and summary.png.
    """
    from .. import simulate

    atoms, name = common.structure(structure)
    target = out or Path(f"{name}-relax")
    folder = None if out and simulate.names_structure_file(out) else target
    relaxed = target if folder is None else folder / "relaxed.extxyz"
    trajectory = folder and folder / "trajectory.extxyz"
    for path in filter(None, (relaxed, trajectory)):
        simulate.see_free(path, overwrite=overwrite)
    make_folder(relaxed.parent)
    atoms.calc = common.calculator(model, [atoms], dtype, device, skin)
    begin = time.perf_counter()
    with common.progress("live") as bar:
        task = bar.add_task("Relaxing", total=steps, live="")
        try:
            result = simulate.relax(
                atoms,
                fmax=fmax,
                steps=steps,
                optimizer=optimizer,  # type: ignore[arg-type]
                cell=cell,
                trajectory=trajectory,
                on_step=lambda step, energy, force: bar.update(
                    task, completed=step, live=f"{energy:.4f} eV  {force:.4f} eV/Å"
                ),
            )
        except KeyboardInterrupt:
            bar.stop()
            kept = f"the steps so far are in {trajectory}" if trajectory else "nothing was written"
            common.errors.print(f"Interrupted: {escape(kept)}.", soft_wrap=True)
            raise
    simulate.write_structure(relaxed, result.atoms)
    if folder is not None:
        title = f"{result.atoms.get_chemical_formula()}, relaxed with {atoms.calc.name}"
        simulate.relax_picture(folder / "summary.png", result, atoms, title=title, fmax=fmax)
    if not result.converged:
        common.errors.print(f"[yellow]Not converged after {result.steps} steps.[/yellow]")
    largest = "largest force, and gradient of the cell" if cell else "largest force"
    common.summary(
        "Relaxed" if result.converged else "Not converged",
        [
            ("model", atoms.calc.name),
            ("steps", f"{result.steps} ({result.optimizer}, {time.perf_counter() - begin:.1f} s)"),
            ("energy", f"{result.energies[-1]:.6f} eV ({result.energies[-1] - result.energies[0]:+.6f} eV)"),
            (largest, f"{result.fmax[-1]:.5f} eV/Å (goal {fmax:g} eV/Å)"),
            *(_cell_rows(result.atoms) if cell else ()),
            ("results", str(folder or relaxed)),
        ],
    )


def _cell_rows(atoms: Atoms) -> list[tuple[str, str]]:
    import numpy as np
    from ase import units

    lengths, angles = atoms.cell.cellpar()[:3], atoms.cell.cellpar()[3:]
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    stress = atoms.get_stress() / units.GPa
    return [
        ("largest force on an atom", f"{force:.5f} eV/Å"),
        ("lengths of the cell", " ".join(f"{length:.4f}" for length in lengths) + " Å"),
        ("angles of the cell", " ".join(f"{angle:.3f}" for angle in angles) + "°"),
        ("volume", f"{atoms.get_volume():.3f} Å³"),
        ("stress, xx yy zz yz xz xy", " ".join(f"{part:.3f}" for part in stress) + " GPa"),
    ]
