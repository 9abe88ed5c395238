"""``ase-geomol eos``, ``elastic``, ``phonons``, ``surface`` and ``neb``: properties of crystals, and paths."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import ConfigError, DataError, GeoMolError, OutputError
from ..files import make_folder, write_atomically
from . import common

if TYPE_CHECKING:
    from ase import Atoms

RELAXED_FMAX = 1e-3
"""eV/Å, to which a crystal is relaxed before its properties are measured."""
SECONDS_BETWEEN_PATHS = 10.0
WRITTEN = (
    *("relaxed.extxyz", "equation_of_state.csv", "elastic_constants.csv", "phonopy.yaml", "bands.csv", "dos.csv"),
    *("thermal.csv", "slab.extxyz", "path.extxyz", "results.json", "summary.png"),
)
"""What the commands leave in their folders."""
CALCULATED = "calculated.jsonl"
"""What was computed so far, until a command has ended."""
AsItIsOption = Annotated[bool, typer.Option("--as-it-is", help="Do not relax the crystal and its cell first.")]
OutOption = Annotated[Path | None, typer.Option(help="A folder (default: NAME-COMMAND).", show_default=False)]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
FmaxOption = Annotated[float, typer.Option(help="eV/Å, to which positions are relaxed.")]

EOS_EPILOG = common.examples(
    ("bulk modulus of a crystal", "ase-geomol eos NaCl.cif"),
    ("a wider range of volumes", "ase-geomol eos NaCl.cif --strain 0.06 --points 13"),
)
ELASTIC_EPILOG = common.examples(("elastic constants", "ase-geomol elastic Si.cif"))
PHONONS_EPILOG = common.examples(
    ("bands, density of states, heat capacity", "ase-geomol phonons Si.cif"),
    ("with a supercell of your choice", "ase-geomol phonons Si.cif --supercell 3 3 3"),
)
SURFACE_EPILOG = common.examples(
    ("the (111) surface", "ase-geomol surface Cu.cif 1 1 1 --layers 4"),
    ("negative indices", "ase-geomol surface Mg.cif 1 -1 0"),
)
NEB_EPILOG = common.examples(("a barrier between two structures", "ase-geomol neb first.xyz last.xyz"))


def eos(
    structure: common.StructureArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    strain: Annotated[float, typer.Option(help="Largest relative change of lengths.")] = 0.03,
    points: Annotated[int, typer.Option(help="How many volumes.")] = 9,
    fmax: FmaxOption = 0.005,
    as_it_is: AsItIsOption = False,
    out: OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Fit an equation of state: equilibrium volume, bulk modulus.

    Writes relaxed.extxyz (not with --as-it-is), equation_of_state.csv, results.json and summary.png.
    """
    from .. import simulate

    atoms, folder, title = _start(structure, "eos", model, dtype, device, out, overwrite, resume, as_it_is)
    found: list[tuple[float, float]] = []
    with common.progress("live") as bar, _kept(atoms.calc):
        task = bar.add_task("Volumes", total=points, live="")

        def see(done: int, volume: float, energy: float) -> None:
            found.append((volume, energy))
            _write_csv(folder / "equation_of_state.csv", ("volume_A3", "energy_eV"), found)
            bar.update(task, completed=done, live=f"{volume:.2f} Å³  {energy:.4f} eV")

        result = simulate.equation_of_state(
            atoms,
            strain=strain,
            points=points,
            fmax=fmax,
            on_point=see,
        )
    _finish(
        folder,
        atoms,
        "Equation of state",
        {
            "volume (Å³)": result.volume,
            "volume (Å³/atom)": result.volume / len(atoms),
            "bulk modulus (GPa)": result.bulk_modulus,
            "its derivative by pressure": result.derivative,
            "largest distance from the curve (meV)": 1e3 * result.residual,
            **_unrelaxed(result.unrelaxed, points),
        },
        {"strain": strain, "points": points, "fmax (eV/Å)": fmax, "as it is": as_it_is},
        lambda path: simulate.eos_picture(path, result, title=title),
    )


def elastic(
    structure: common.StructureArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    strain: Annotated[float, typer.Option(help="Largest engineering strain.")] = 0.005,
    points: Annotated[int, typer.Option(help="Strains of each kind, an even number.")] = 4,
    fmax: FmaxOption = 0.001,
    as_it_is: AsItIsOption = False,
    out: OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Measure the elastic constants of a crystal, and the moduli of a polycrystal.

    Writes relaxed.extxyz (not with --as-it-is), elastic_constants.csv and results.json.
    """
    from .. import simulate

    atoms, folder, _ = _start(structure, "elastic", model, dtype, device, out, overwrite, resume, as_it_is)
    with common.progress() as bar, _kept(atoms.calc):
        task = bar.add_task("Strains", total=6 * points)
        result = simulate.elasticity(
            atoms,
            strain=strain,
            points=points,
            fmax=fmax,
            on_strain=lambda done, of: bar.update(task, completed=done, total=of),
        )
    names = ("xx", "yy", "zz", "yz", "xz", "xy")
    _write_csv(folder / "elastic_constants.csv", [f"{name}_GPa" for name in names], result.constants)
    for row in result.constants:
        common.console.print("  ".join(f"{value:8.1f}" for value in row))
    _finish(
        folder,
        atoms,
        "Elastic constants (GPa, above, along the cell's Cartesian axes) and averages",
        {
            "bulk modulus (GPa)": result.bulk_modulus,
            "shear modulus (GPa)": result.shear_modulus,
            "Young's modulus (GPa)": result.youngs_modulus,
            "Poisson's ratio": result.poisson_ratio,
            "universal anisotropy": result.anisotropy,
            "asymmetry of the stresses (GPa)": result.asymmetry,
            "stable": result.stable,
            **_unrelaxed(result.unrelaxed, 6 * points),
        },
        {"strain": strain, "points": points, "fmax (eV/Å)": fmax, "as it is": as_it_is},
    )


def phonons(
    structure: common.StructureArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    supercell: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Repetitions; default: until every vector is 10 Å long.", show_default=False),
    ] = None,
    displacement: Annotated[float, typer.Option(help="Å.")] = 0.01,
    symprec: Annotated[float, typer.Option(help="Å, to find the symmetry.")] = 1e-3,
    as_it_is: AsItIsOption = False,
    out: OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Compute phonons with phonopy: bands, density of states, free energy, heat capacity.

    Writes relaxed.extxyz (not with --as-it-is), phonopy.yaml, bands.csv, dos.csv, results.json and summary.png, and
    without imaginary modes thermal.csv.
    """
    from .. import simulate

    atoms, folder, title = _start(structure, "phonons", model, dtype, device, out, overwrite, resume, as_it_is)
    with common.progress() as bar, _kept(atoms.calc):
        task = bar.add_task("Displaced supercells", total=None)
        result = simulate.phonons(
            atoms,
            supercell=supercell,
            displacement=displacement,
            symprec=symprec,
            on_force=lambda done, of: bar.update(task, completed=done, total=of),
        )
    result.save(folder / "phonopy.yaml")
    branches = [f"branch_{i + 1}_THz" for i in range(result.bands.shape[1])]
    rows = [[distance, *bands] for distance, bands in zip(result.distances, result.bands, strict=True)]
    _write_csv(folder / "bands.csv", ["distance", *branches], rows)
    _write_csv(
        folder / "dos.csv", ("frequency_THz", "states_per_THz"), zip(result.dos_frequencies, result.dos, strict=True)
    )
    if result.stable:
        curves = zip(result.temperatures, result.free_energy, result.entropy, result.heat_capacity, strict=True)
        header = ("temperature_K", "free_energy_kJ_mol", "entropy_J_K_mol", "heat_capacity_J_K_mol")
        _write_csv(folder / "thermal.csv", header, curves)
    thermal: dict[str, Any] = {"heat capacity and free energy": "none: imaginary modes have no share in them"}
    if result.stable:
        room, mole = abs(result.temperatures - 300).argmin(), f"mol of {result.primitive}-atom primitive cells"
        kelvin = f"{result.temperatures[room]:.0f} K"
        thermal = {
            f"heat capacity at {kelvin} (J/K/{mole})": float(result.heat_capacity[room]),
            f"free energy at {kelvin} (kJ/{mole})": float(result.free_energy[room]),
        }
    _finish(
        folder,
        atoms,
        "Phonons",
        {
            "supercell": " × ".join(str(int(n)) for n in result.supercell.diagonal()),
            "space group": result.space_group,
            "atoms of the primitive cell": result.primitive,
            "highest frequency (THz)": float(result.bands.max()),
            "lowest frequency (THz)": result.lowest,
            "imaginary modes": "none" if result.stable else "YES",
            **thermal,
        },
        {"displacement (Å)": displacement, "symprec (Å)": symprec, "as it is": as_it_is},
        lambda path: simulate.phonon_picture(path, result, title=title),
    )


def surface(
    structure: common.StructureArgument,
    miller: Annotated[tuple[int, int, int], typer.Argument(help="Miller indices, as 1 1 1.", show_default=False)],
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    layers: Annotated[int, typer.Option(help="Repetitions of the cell along the normal.")] = 6,
    vacuum: Annotated[float, typer.Option(help="Å, at either side.")] = 10.0,
    fmax: FmaxOption = 0.02,
    steps: Annotated[int, typer.Option(help="Of the slab's relaxation, at most.")] = 500,
    symprec: Annotated[float, typer.Option(help="Å, to find the symmetry.")] = 1e-3,
    as_it_is: AsItIsOption = False,
    out: OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Cut and relax a slab, and compute its surface energy.

    Miller indices refer to the conventional cell of the crystal's symmetry, unless the file's cell has as many atoms;
    with --as-it-is always to the file's. The results say which, and how long its vectors are.

    Writes relaxed.extxyz (not with --as-it-is), slab.extxyz, results.json and summary.png.
    """
    from .. import simulate

    atoms, folder, title = _start(structure, "surface", model, dtype, device, out, overwrite, resume, as_it_is)
    cell = "as given"
    if not as_it_is:
        calculator, conventional = atoms.calc, simulate.conventional_cell(atoms, symprec)
        if len(conventional) != len(atoms):  # else the file's cell is a conventional one, perhaps in another setting
            atoms, cell = conventional, "the conventional one"
            atoms.calc = calculator
    with common.console.status("Relaxing the slab"), _kept(atoms.calc):
        result = simulate.surface_energy(atoms, miller, layers=layers, vacuum=vacuum, fmax=fmax, steps=steps)
    simulate.write_structure(folder / "slab.extxyz", result.slab.atoms)
    _finish(
        folder,
        atoms,
        f"Surface ({' '.join(map(str, miller))})",
        {
            "cell that the indices refer to": f"{cell}, {len(atoms)} atoms",
            "its vectors (Å)": " ".join(f"{length:.4f}" for length in atoms.cell.lengths()),
            "area (Å²)": result.area,
            "surface energy (J/m²)": result.energy,
            "is of": "the mean of two unlike surfaces" if result.unlike else "one surface",
            "before relaxation (J/m²)": result.unrelaxed,
            "atoms": len(result.slab.atoms),
            "relaxed": "yes" if result.slab.converged else f"NO, after {result.slab.steps} steps",
        },
        {"layers": layers, "vacuum (Å)": vacuum, "fmax (eV/Å)": fmax, "steps": steps, "as it is": as_it_is},
        lambda path: simulate.relax_picture(path, result.slab, result.cut, title=title, fmax=fmax),
    )


def neb(
    first: Annotated[str, typer.Argument(help="The first structure.", show_default=False)],
    last: Annotated[str, typer.Argument(help="The last one, with the same atoms.", show_default=False)],
    model: common.ModelOption = common.BY_ELEMENTS,
    images: Annotated[int, typer.Option(help="Between the ends.")] = 7,
    fmax: FmaxOption = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many in each of two stages.")] = 500,
    as_it_is: Annotated[bool, typer.Option("--as-it-is", help="Do not relax the two ends first.")] = False,
    out: OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: ResumeOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
) -> None:
    """Find the minimum-energy path between two structures, and its barrier.

    Both ends are relaxed first, their positions alone. Writes path.extxyz, results.json and summary.png.
    """
    from .. import simulate

    end, _ = common.structure(last)
    atoms, folder, title = _start(
        *(first, "neb", model, dtype, device, out, overwrite, resume),
        as_it_is=True,
        check=lambda atoms: simulate.see_ends(atoms, end),
    )
    if not as_it_is:
        end.calc = atoms.calc
        end.set_constraint(atoms.constraints)
        with common.console.status("Relaxing the ends"), _kept(atoms.calc):
            atoms, end = (simulate.relax(each, fmax=fmax / 2, steps=1000).atoms for each in (atoms, end))
    begin = time.perf_counter()

    def see(step: int, barrier: float, band: list[Atoms]) -> None:
        nonlocal begin
        bar.update(task, completed=step, live=f"{barrier:.3f} eV")
        if time.perf_counter() > begin + SECONDS_BETWEEN_PATHS:
            _write_path(folder, band)
            begin = time.perf_counter()

    with common.progress("live") as bar, _kept(atoms.calc):
        task = bar.add_task("Path", total=2 * steps, live="")
        result = simulate.minimum_energy_path(
            atoms,
            end,
            images=images,
            fmax=fmax,
            steps=steps,
            on_step=see,
        )
    _write_path(folder, result.images, result.distances)
    if result.end_force > fmax:
        common.errors.print(
            f"[yellow]An end of the path is no minimum (force {result.end_force:.3f} eV/Å): the barrier is measured "
            "from there.[/yellow]",
            soft_wrap=True,
        )
    _finish(
        folder,
        atoms,
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
        lambda path: simulate.path_picture(path, result, title=title),
    )


def _write_path(folder: Path, images: Sequence[Atoms], distances: Iterable[float] = ()) -> None:
    from .. import simulate

    about = [{"distance_A": distance} for distance in distances] or [{}] * len(images)
    text = "".join(simulate.frame_text(image, told) for image, told in zip(images, about, strict=True))
    write_atomically(folder / "path.extxyz", text.encode())


def _start(
    structure: str,
    command: str,
    model: Sequence[str],
    dtype: str,
    device: str | None,
    out: Path | None,
    overwrite: bool,
    resume: bool,
    as_it_is: bool,
    check: Callable[[Atoms], object] | None = None,
) -> tuple[Atoms, Path, str]:
    """The structure, seen by ``check`` (default: that it is a crystal), with its calculator, relaxed if wanted; the
    folder of its results; a title.
    """
    from .. import simulate

    atoms, name = common.structure(structure)
    folder = out or Path(f"{name}-{command}")
    if check is None:
        simulate.see_crystal(atoms, f"ase-geomol {command}")
    else:
        check(atoms)
    _claim(folder, overwrite, resume)
    calculator = common.calculator(model, [atoms], dtype, device, skin=0.5)
    calculator.get_potential_energy(atoms)  # a structure that the calculator refuses leaves everything as it is
    make_folder(folder)
    if not resume:
        for old in (CALCULATED, *WRITTEN):
            (folder / old).unlink(missing_ok=True)  # nothing old stands beside what is new
    title = f"{atoms.get_chemical_formula()}, with {calculator.name}"
    about = f"{command} of {atoms.get_chemical_formula()} {simulate.structure_key(atoms)[:8]}"
    atoms.calc = simulate.ResumableCalculator(calculator, folder / CALCULATED, about=about)
    if resume:
        common.console.print(f"[dim]{atoms.calc.known} structures were computed before[/dim]")
    if as_it_is:
        return atoms, folder, title
    with common.console.status("Relaxing the crystal and its cell"), _kept(atoms.calc):
        relaxed = simulate.relax(atoms, fmax=RELAXED_FMAX, cell=True, optimizer="LBFGS")
    if not relaxed.converged:
        common.errors.print(f"[yellow]The crystal is not relaxed after {relaxed.steps} steps.[/yellow]")
    simulate.write_structure(folder / "relaxed.extxyz", relaxed.atoms)
    return relaxed.atoms, folder, title


def _claim(folder: Path, overwrite: bool, resume: bool) -> None:
    """See that the folder may be filled, or gone on with.

    Raises:
        ConfigError: both flags are set.
        DataError: there is nothing to resume.
        OutputError: it holds results, or an interrupted run, and neither flag is set.
    """
    from .. import simulate

    begun, ended = ((folder / name).exists() for name in (CALCULATED, "results.json"))
    if resume and overwrite:
        raise ConfigError("--resume keeps what --overwrite replaces: give one of them.")
    if resume and not begun:
        why = "it has ended" if ended else f"it has no {CALCULATED}"
        raise DataError(f"{folder} holds no run that could be resumed: {why}.")
    if begun and not (resume or overwrite):
        raise OutputError(
            f"{folder} holds an interrupted run: continue it with --resume, replace it with --overwrite, or choose "
            "another folder."
        )
    simulate.see_free(folder / "results.json", overwrite=overwrite or resume)


@contextmanager
def _kept(calculator: Any) -> Iterator[None]:
    """When something ends a run early, close the calculator's file, say what is beside it, and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, GeoMolError) as error:
        calculator.close()
        files = [calculator.path.parent / name for name in WRITTEN]
        kept = ", ".join(str(file) for file in files if file.exists())
        what = "Interrupted" if isinstance(error, KeyboardInterrupt) else "Not finished"
        common.errors.print(
            f"{what}; written so far: {escape(kept or 'no results')}. What was computed is kept: go on with the same "
            "command and --resume.",
            soft_wrap=True,
        )
        raise


def _unrelaxed(count: int, of: int) -> dict[str, str]:
    """What is said of inner relaxations, where some did not end."""
    return {"positions not relaxed": f"at {count} of {of}"} if count else {}


def _finish(
    folder: Path,
    atoms: Atoms,
    title: str,
    results: dict[str, Any],
    settings: dict[str, Any],
    picture: Callable[[Path], object] | None = None,
) -> None:
    """Print the results as a table and write them, with model and settings, and a picture; then all is done."""
    from ..simulate import ResumableCalculator

    assert isinstance(atoms.calc, ResumableCalculator)
    results = {"model": atoms.calc.name, **results}
    shown = [(name, f"{value:.5g}" if isinstance(value, float) else str(value)) for name, value in results.items()]
    common.summary(title, [*shown, ("results", str(folder))])
    written = {**results, "settings": {**atoms.calc.identity, **settings}}
    write_atomically(folder / "results.json", (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
    if picture:
        with _kept(atoms.calc):
            picture(folder / "summary.png")
    atoms.calc.close()
    (folder / CALCULATED).unlink(missing_ok=True)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[float]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.10g}" for value in row] for row in rows)
    write_atomically(path, buffer.getvalue().encode())
