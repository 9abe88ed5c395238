"""``ase-geomol md``."""

from __future__ import annotations

import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from . import common

if TYPE_CHECKING:
    from ase import Atoms

    from ..simulate import MDResult, Row

EPILOG = common.examples(
    ("aspirin for 1 ps at 300 K", 'ase-geomol md "CC(=O)Oc1ccccc1C(=O)O" --temperature 300 --time 1ps'),
    ("go on after Ctrl-C, or make it longer", "ase-geomol md CCO --time 2ps --resume"),
    ("how well is energy conserved?", "ase-geomol md C6H6 --ensemble nve --timestep 0.25fs --dtype float64"),
    ("stop where the potential no longer knows", "ase-geomol md CCO -m my.safetensors -T 1500 --stop-above 0.1"),
    ("a crystal under pressure", "ase-geomol md NaCl.cif --ensemble npt --temperature 200 --pressure 1GPa"),
)


def md(
    structure: common.StructureArgument,
    model: common.ModelOption = common.BY_ELEMENTS,
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="K.")] = 300.0,
    time: Annotated[Any, typer.Option(parser=common.parse_time, metavar="TIME", help="1ps, 500fs, 0.1ns.")] = "1ps",
    timestep: Annotated[
        Any, typer.Option(parser=common.parse_time, metavar="TIME", help="Up to 1fs with hydrogen.")
    ] = "0.5fs",
    ensemble: Annotated[str, typer.Option(help="nvt (Langevin), nve, or npt (isotropic).")] = "nvt",
    pressure: Annotated[
        Any, typer.Option(parser=common.parse_pressure, metavar="PRESSURE", help="Of npt: 2GPa; default: 1bar.")
    ] = None,
    thermostat_time: Annotated[
        Any, typer.Option(parser=common.parse_time, metavar="TIME", help="Time constant of the thermostat.")
    ] = "100fs",
    seed: Annotated[int, typer.Option(help="Of velocities and random forces.")] = 0,
    interval: Annotated[int, typer.Option(help="Steps from one written frame to the next.")] = 10,
    relax: Annotated[bool, typer.Option("--relax/--no-relax", help="Relax the structure first.")] = True,
    stop_above: Annotated[
        float | None,
        typer.Option(help="eV; stop where an atom's energy is more uncertain than that.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: NAME-md).", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, or make it longer.")] = False,
    overwrite: common.OverwriteOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
    skin: common.SkinOption = 0.5,
) -> None:
    """Run molecular dynamics.

    Writes trajectory.extxyz, final.extxyz, log.csv, state.json (for --resume) and summary.png, of a crystal or liquid
    also structure.png (pair distances, displacements). Ctrl-C stops and keeps everything; so does --stop-above, with
    exit code 1.
    """
    from ase import units

    from .. import simulate
    from ..errors import ConfigError

    if pressure is not None and ensemble != "npt":
        raise ConfigError(f"--pressure is for --ensemble npt, and the ensemble is {ensemble}.")
    atoms, name = common.structure(structure)
    folder = out or Path(f"{name}-md")
    simulate.claim_folder(folder, resume=resume, overwrite=overwrite)
    if not resume:
        common.see_apart([structure], [folder / file for file in simulate.record.RUN_FILES])
    settings = simulate.MDSettings(
        ensemble=ensemble,  # type: ignore[arg-type]
        temperature=temperature,
        timestep=timestep,
        thermostat_time=thermostat_time,
        pressure=(1.0 if pressure is None else pressure) * units.bar,
        seed=seed,
        interval=interval,
    )
    steps = settings.steps(time)
    atoms.calc = common.calculator(model, [atoms], dtype, device, skin)
    if stop_above is not None:
        simulate.check_limit(atoms.calc, stop_above)
    begun = False
    try:
        if relax and not resume:
            atoms = _relaxed(atoms)
        begun = True
        with common.progress("rate", "live") as bar:
            show = _Live(bar, steps, timestep)
            result = simulate.run_md(
                atoms,
                settings,
                time=time,
                folder=folder,
                resume=resume,
                overwrite=overwrite,
                stop_above=stop_above,
                on_step=show,
            )
    except KeyboardInterrupt:
        kept = f"what was computed is in {escape(str(folder))}; go on with the same command and --resume"
        begun = begun and (folder / "state.json").exists()
        common.errors.print(f"Interrupted: {kept if begun else 'the run had not begun yet'}.", soft_wrap=True)
        raise
    _write(result, folder)
    common.summary(f"Molecular dynamics of {result.atoms.get_chemical_formula()}", _rows(result, folder))
    if result.departure is not None:
        advice = "Go on with the same command, --resume and a larger --stop-above or none."
        common.errors.print(f"[yellow]{result.departure} {advice}[/yellow]", soft_wrap=True)
        raise typer.Exit(1)


class _Live:
    """Shows a run's speed, temperature and energy; called after every step."""

    def __init__(self, bar: Any, total: int, timestep: float) -> None:
        self.bar, self.timestep = bar, timestep
        self.task = bar.add_task("Simulating", total=total, rate="", live="")
        self.first, self.begin = None, clock.perf_counter()

    def __call__(self, row: Row) -> None:
        now = clock.perf_counter()
        if self.first is None:
            self.first, self.begin = row["step"], now
        rate = (row["step"] - self.first) / max(now - self.begin, 1e-9)
        self.bar.update(
            self.task,
            completed=int(row["step"]),
            rate=_speed(rate, self.timestep),
            live=f"{row['temperature_K']:5.0f} K  {row['potential_eV']:.3f} eV",
        )


def _speed(steps_per_second: float, timestep: float) -> str:
    return f"{steps_per_second:.0f} steps/s ({steps_per_second * timestep * 0.0864:.2g} ns/day)"


def _relaxed(atoms: Atoms) -> Atoms:
    from .. import simulate

    with common.progress("live") as bar:
        task = bar.add_task("Relaxing", total=500, live="")
        result = simulate.relax(
            atoms,
            fmax=0.02,
            steps=500,
            on_step=lambda step, energy, force: bar.update(task, completed=step, live=f"{force:.3f} eV/Å"),
        )
    done = "Relaxed" if result.converged else "[yellow]Not relaxed[/yellow]"
    common.console.print(f"{done} in {result.steps} steps to {result.fmax[-1]:.3f} eV/Å", style="dim")
    return result.atoms


def _write(result: MDResult, folder: Path) -> None:
    from .. import simulate

    simulate.write_structure(folder / "final.extxyz", result.atoms)
    settings = result.settings
    title = f"{result.atoms.get_chemical_formula()}, {settings.ensemble.upper()} with {result.atoms.calc.name}"  # type: ignore[union-attr]
    simulate.md_picture(
        folder / "summary.png",
        result.log,
        result.atoms,
        title=title,
        target=None if settings.ensemble == "nve" else settings.temperature,
    )
    if result.atoms.pbc.all() and result.atoms.cell.rank == 3 and result.steps >= 2 * settings.interval:
        frames, times = simulate.read_run(folder)
        symbols = sorted(set(result.atoms.get_chemical_symbols()))
        squares = {symbol: simulate.mean_square_displacement(frames, times, symbol=symbol) for symbol in symbols}
        simulate.trajectory_picture(
            folder / "structure.png",
            simulate.radial_distribution(frames[len(frames) // 2 :]),
            squares[symbols[0]][0],
            {symbol: displaced for symbol, (_, displaced) in squares.items()},
            title=title,
        )


def _rows(result: MDResult, folder: Path) -> list[tuple[str, str | Text]]:
    settings, log = result.settings, result.log
    second_half = log["temperature_K"][len(log["temperature_K"]) // 2 :]
    rows: list[tuple[str, str | Text]] = [
        ("model", result.atoms.calc.name),  # type: ignore[union-attr]
        ("simulated", f"{result.time / 1000:g} ps in {result.steps} steps of {settings.timestep:g} fs"),
        ("ensemble", f"{settings.ensemble.upper()}, seed {settings.seed}"),
        ("temperature", f"{second_half.mean():.0f} ± {second_half.std():.0f} K in the second half"),
        ("energy", f"{log['potential_eV'][-1]:.4f} eV potential, {log['total_eV'][-1]:.4f} eV total"),
    ]
    if result.drift is not None:
        rows.append(("energy drift", f"{result.drift:+.3g} meV/atom/ps"))
    rows += [
        ("bonds", _bonds(result)),
        ("wall time", f"{result.wall_time:.1f} s, {_speed(result.steps_per_second, settings.timestep)}"),
        ("results", str(folder)),
    ]
    return rows


def _bonds(result: MDResult) -> Text:
    bonds = [str(bond) for bond in result.broken_bonds]
    if len(bonds) > 5:
        bonds[5:] = [f"and {len(bonds) - 5} more"]
    return Text("\n".join(bonds), style="yellow") if bonds else Text("all intact")
