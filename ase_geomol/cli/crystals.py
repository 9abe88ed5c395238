"""``ase-geomol eos``, ``elastic``, ``phonons`` and ``surface``: properties of crystals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import common
from . import crystal_runs as runs

if TYPE_CHECKING:
    from ase import Atoms

    from ..simulate import Phonons

AsItIsOption = Annotated[bool, typer.Option("--as-it-is", help="Do not relax the crystal and its cell first.")]
StrainedFmaxOption = Annotated[
    float,
    typer.Option(
        help=f"eV/Å, of positions in each strained cell; before, the crystal is relaxed to {runs.RELAXED_FMAX:g}."
    ),
]

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


def eos(
    structure: common.CrystalArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    strain: Annotated[float, typer.Option(help="Largest relative change of lengths.")] = 0.03,
    points: Annotated[int, typer.Option(help="How many volumes.")] = 9,
    fmax: StrainedFmaxOption = 0.005,
    as_it_is: AsItIsOption = False,
    out: runs.OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: runs.ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Fit an equation of state: equilibrium volume, bulk modulus.

    Writes relaxed.extxyz (not with --as-it-is), equation_of_state.csv, results.json and summary.png.
    """
    from .. import simulate

    simulate.see_volumes(strain, points, fmax)
    wanted = runs.Wanted("eos", (structure,), model, dtype, device, out, overwrite, resume)
    with runs.begun(wanted, _see_crystal("eos")) as run:
        atoms = run.crystal(as_it_is)
        found: list[tuple[float, float]] = []
        with common.progress("live") as bar:
            task = bar.add_task("Volumes", total=points, live="")

            def see(done: int, volume: float, energy: float) -> None:
                found.append((volume, energy))
                runs.write_csv(run.folder / "equation_of_state.csv", ("volume_A3", "energy_eV"), found)
                bar.update(task, completed=done, live=f"{volume:.2f} Å³  {energy:.4f} eV")

            result = simulate.equation_of_state(atoms, strain=strain, points=points, fmax=fmax, on_point=see)
        run.finish(
            "Equation of state",
            {
                "volume (Å³)": result.volume,
                "volume (Å³/atom)": result.volume / len(atoms),
                "bulk modulus (GPa)": result.bulk_modulus,
                "its derivative by pressure": result.derivative,
                "largest distance from the curve (meV)": 1e3 * result.residual,
                **runs.unrelaxed(result.unrelaxed, points),
            },
            {"strain": strain, "points": points, "fmax (eV/Å)": fmax, "as it is": as_it_is},
            lambda path: simulate.eos_picture(path, result, title=run.title),
        )


def elastic(
    structure: common.CrystalArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    strain: Annotated[float, typer.Option(help="Largest engineering strain.")] = 0.005,
    points: Annotated[int, typer.Option(help="Strains of each kind, an even number.")] = 4,
    fmax: StrainedFmaxOption = 0.001,
    as_it_is: AsItIsOption = False,
    out: runs.OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: runs.ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Measure the elastic constants of a crystal, and the moduli of a polycrystal.

    Writes relaxed.extxyz (not with --as-it-is), elastic_constants.csv and results.json.
    """
    from .. import simulate

    simulate.see_strains(strain, points, fmax)
    wanted = runs.Wanted("elastic", (structure,), model, dtype, device, out, overwrite, resume)
    with runs.begun(wanted, _see_crystal("elastic")) as run:
        atoms = run.crystal(as_it_is)
        with common.progress() as bar:
            task = bar.add_task("Strains", total=6 * points)
            result = simulate.elasticity(
                atoms,
                strain=strain,
                points=points,
                fmax=fmax,
                on_strain=lambda done, of: bar.update(task, completed=done, total=of),
            )
        names = ("xx", "yy", "zz", "yz", "xz", "xy")
        runs.write_csv(run.folder / "elastic_constants.csv", [f"{name}_GPa" for name in names], result.constants)
        for row in result.constants:
            common.console.print("  ".join(f"{value:8.1f}" for value in row))
        run.finish(
            "Elastic constants (GPa, above, along the cell's Cartesian axes) and averages",
            {
                "bulk modulus (GPa)": result.bulk_modulus,
                "shear modulus (GPa)": result.shear_modulus,
                "Young's modulus (GPa)": result.youngs_modulus,
                "Poisson's ratio": result.poisson_ratio,
                "universal anisotropy": result.anisotropy,
                "asymmetry of the stresses (GPa)": result.asymmetry,
                "stable": result.stable,
                **runs.unrelaxed(result.unrelaxed, 6 * points),
            },
            {"strain": strain, "points": points, "fmax (eV/Å)": fmax, "as it is": as_it_is},
        )


def phonons(
    structure: common.CrystalArgument,
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    supercell: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Repetitions; default: until an atom's images are 10 Å away from it.", show_default=False),
    ] = None,
    displacement: Annotated[float, typer.Option(help="Å.")] = 0.01,
    symprec: Annotated[float, typer.Option(help="Å, to find the symmetry.")] = 1e-3,
    as_it_is: AsItIsOption = False,
    out: runs.OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: runs.ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Compute phonons with phonopy: bands, density of states, free energy, heat capacity.

    Writes relaxed.extxyz (not with --as-it-is), phonopy.yaml, bands.csv, dos.csv, results.json and summary.png, and
    without imaginary modes thermal.csv.
    """
    from .. import simulate

    simulate.see_displacements(supercell, displacement, symprec)
    wanted = runs.Wanted("phonons", (structure,), model, dtype, device, out, overwrite, resume)
    with runs.begun(wanted, _see_crystal("phonons")) as run:
        atoms = run.crystal(as_it_is)
        with common.progress() as bar:
            task = bar.add_task("Displaced supercells", total=None)
            result = simulate.phonons(
                atoms,
                supercell=supercell,
                displacement=displacement,
                symprec=symprec,
                on_force=lambda done, of: bar.update(task, completed=done, total=of),
            )
        _write_phonons(run.folder, result)
        thermal: dict[str, Any] = {"heat capacity and free energy": "none: imaginary modes have no share in them"}
        if result.stable:
            room, mole = abs(result.temperatures - 300).argmin(), f"mol of {result.primitive}-atom primitive cells"
            kelvin = f"{result.temperatures[room]:.0f} K"
            thermal = {
                f"heat capacity at {kelvin} (J/K/{mole})": float(result.heat_capacity[room]),
                f"free energy at {kelvin} (kJ/{mole})": float(result.free_energy[room]),
            }
        run.finish(
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
            lambda path: simulate.phonon_picture(path, result, title=run.title),
        )


def surface(
    structure: common.CrystalArgument,
    miller: Annotated[tuple[int, int, int], typer.Argument(help="Miller indices, as 1 1 1.", show_default=False)],
    model: common.NamedModelOption = common.FOR_CRYSTALS,
    layers: Annotated[int, typer.Option(help="Repetitions of the cell along the normal.")] = 6,
    vacuum: Annotated[float, typer.Option(help="Å, at either side.")] = 10.0,
    fmax: Annotated[float, typer.Option(help="eV/Å, to which the slab's positions are relaxed.")] = 0.02,
    steps: Annotated[int, typer.Option(help="Of the slab's relaxation, at most.")] = 500,
    symprec: Annotated[float, typer.Option(help="Å, to find the symmetry.")] = 1e-3,
    as_it_is: AsItIsOption = False,
    out: runs.OutOption = None,
    overwrite: common.OverwriteOption = False,
    resume: runs.ResumeOption = False,
    dtype: common.DtypeOption = "float64",
    device: common.DeviceOption = None,
) -> None:
    """Cut and relax a slab, and compute its surface energy.

    Miller indices refer to the conventional cell of the crystal's symmetry, unless the file's cell has as many atoms;
    with --as-it-is always to the file's. The results say which, and how long its vectors are.

    Writes relaxed.extxyz (not with --as-it-is), slab.extxyz, results.json and summary.png.
    """
    from .. import simulate

    simulate.see_slab(miller, layers, vacuum, fmax, steps)
    if not as_it_is:
        simulate.see_symmetry(symprec)
    wanted = runs.Wanted("surface", (structure,), model, dtype, device, out, overwrite, resume)
    with runs.begun(wanted, _see_crystal("surface")) as run:
        given = run.crystal(as_it_is)
        atoms = given if as_it_is else simulate.miller_cell(given, symprec)
        with common.console.status("Relaxing the slab"):
            result = simulate.surface_energy(atoms, miller, layers=layers, vacuum=vacuum, fmax=fmax, steps=steps)
        simulate.write_structure(run.folder / "slab.extxyz", result.slab.atoms)
        cell = "as given" if atoms is given else "the conventional one"
        run.finish(
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
            lambda path: simulate.relax_picture(path, result.slab, result.cut, title=run.title, fmax=fmax),
        )


def _see_crystal(command: str) -> Callable[[Atoms], None]:
    from .. import simulate

    return lambda atoms: simulate.see_crystal(atoms, f"ase-geomol {command}")


def _write_phonons(folder: Path, result: Phonons) -> None:
    result.save(folder / "phonopy.yaml")
    branches = [f"branch_{i + 1}_THz" for i in range(result.bands.shape[1])]
    rows = [[distance, *bands] for distance, bands in zip(result.distances, result.bands, strict=True)]
    runs.write_csv(folder / "bands.csv", ["distance", *branches], rows)
    states = zip(result.dos_frequencies, result.dos, strict=True)
    runs.write_csv(folder / "dos.csv", ("frequency_THz", "states_per_THz"), states)
    if result.stable:
        curves = zip(result.temperatures, result.free_energy, result.entropy, result.heat_capacity, strict=True)
        header = ("temperature_K", "free_energy_kJ_mol", "entropy_J_K_mol", "heat_capacity_J_K_mol")
        runs.write_csv(folder / "thermal.csv", header, curves)
