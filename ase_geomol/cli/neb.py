"""``ase-geomol neb``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files import write_atomically
from . import common
from . import crystal_runs as runs

if TYPE_CHECKING:
    from ase import Atoms

SAME_MINIMUM = 0.01
"""Å, by which no atom moves between ends of a path that were relaxed to the same minimum."""
SECONDS_BETWEEN_PATHS = 10.0

EPILOG = common.examples(("a barrier between two structures", "ase-geomol neb first.xyz last.xyz"))


def neb(
    first: Annotated[str, typer.Argument(help="The first structure.", show_default=False)],
    last: Annotated[str, typer.Argument(help="The last one, with the same atoms.", show_default=False)],
    model: common.ModelOption = common.BY_ELEMENTS,
    images: Annotated[int, typer.Option(help="Between the ends.")] = 7,
    fmax: Annotated[
        float,
        typer.Option(help="eV/Å; stop when no force across the path is larger. The ends are relaxed to half of it."),
    ] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many in each of two stages.")] = 500,
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Do not relax the two ends first.")] = False,
    out: runs.OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: runs.ResumeOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
) -> None:
    """Find the minimum-energy path between two structures, and its barrier.

    Both ends are relaxed first, their positions alone. Writes path.extxyz, results.json and summary.png.
    """
    from .. import simulate

    simulate.see_images(images, fmax, steps)
    wanted = runs.Wanted("neb", (first, last), model, dtype, device, out, overwrite, resume)
    with runs.begun(wanted, simulate.see_ends) as run:
        begin, end = run.structures
        if not as_it_is:
            end.set_constraint(begin.constraints)
            with common.console.status("Relaxing the ends"):
                begin, end = (simulate.relax(each, fmax=fmax / 2, steps=1000).atoms for each in (begin, end))
            simulate.see_ends(begin, end, SAME_MINIMUM)
        written = time.perf_counter()

        def see(step: int, barrier: float, band: list[Atoms]) -> None:
            nonlocal written
            bar.update(task, completed=step, live=f"{barrier:.3f} eV")
            if time.perf_counter() > written + SECONDS_BETWEEN_PATHS:
                _write_path(run.folder, band)
                written = time.perf_counter()

        with common.progress("live") as bar:
            task = bar.add_task("Path", total=2 * steps, live="")
            result = simulate.minimum_energy_path(begin, end, images=images, fmax=fmax, steps=steps, on_step=see)
        _write_path(run.folder, result.images, result.distances)
        if result.end_force > fmax:
            common.errors.print(
                f"[yellow]An end of the path is no minimum (force {result.end_force:.3f} eV/Å): the barrier is "
                "measured from there.[/yellow]",
                soft_wrap=True,
            )
        run.finish(
            "Minimum-energy path" if result.converged else "Not converged",
            {
                "barrier (eV)": result.barrier,
                "last − first (eV)": float(result.energies[-1]),
                "highest image": result.highest,
                "steps": result.steps,
                "converged": result.converged,
                "largest force at the ends (eV/Å)": result.end_force,
            },
            {"images": images, "fmax (eV/Å)": fmax, "steps": steps, "as it is": as_it_is},
            lambda path: simulate.path_picture(path, result, title=run.title),
        )


def _write_path(folder: Path, images: Sequence[Atoms], distances: Iterable[float] = ()) -> None:
    from .. import simulate

    about = [{"distance_A": distance} for distance in distances] or [{}] * len(images)
    text = "".join(simulate.frame_text(image, told) for image, told in zip(images, about, strict=True))
    write_atomically(folder / "path.extxyz", text.encode())
