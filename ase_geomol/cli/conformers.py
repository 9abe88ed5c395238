"""``ase-geomol conformers``."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..files import make_folder
from . import common

if TYPE_CHECKING:
    from ase import Atoms

    from ..providers.base import Ensemble, Provider
    from ..providers.batch import Outcome

EPILOG = common.examples(
    ("50 conformers of aspirin, relaxed and ranked", 'ase-geomol conformers "CC(=O)Oc1ccccc1C(=O)O" -n 50 --relax'),
    (
        "20 that represent the low ones of 200 minima",
        "ase-geomol conformers NCCCCO -n 20 --oversample 10 --relax --window 0.26",
    ),
    ("with bonds, for other programs", "ase-geomol conformers CCCO --out propanol.sdf"),
    ("of every line of a file", "ase-geomol conformers molecules.smi -n 10 --relax --out all.sdf"),
    ("go on after Ctrl-C", "ase-geomol conformers molecules.smi -n 10 --relax --out all.sdf --resume"),
)
FAMILY = 0.75
"""Å; conformers whose heavy atoms are nearer than that are of one family in the table."""
MOST_ROWS = 20
LISTS = (".smi", ".smiles", ".txt", ".csv")
BESIDE_ONE, BESIDE_LINES = (".png", ".html"), (".csv", ".json")
"""What is written beside the structures of one molecule, and of a file of them."""


def conformers(
    context: typer.Context,
    molecules: Annotated[
        str, typer.Argument(metavar="SMILES", help="A SMILES string, or a file of them.", show_default=False)
    ],
    number: Annotated[int, typer.Option("--number", "-n", help="Conformers of each molecule.")] = 10,
    provider: Annotated[
        str, typer.Option(help="What makes them: rdkit, or the name or the file of a conformer model.")
    ] = "rdkit",
    sampler_steps: Annotated[
        int | None, typer.Option(help="Of a conformer model; default: what suits it.", show_default=False)
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Let RDKit make what a conformer model does not know or fails at.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the conformers.")] = 0,
    relax: Annotated[bool, typer.Option("--relax", help="Relax them, and sort them by energy.")] = False,
    model: common.NamedModelOption = common.FOR_MOLECULES,
    steps: Annotated[int, typer.Option(help="Of relaxation, at most; 0: only energies.")] = 1000,
    fmax: Annotated[float, typer.Option(help="eV/Å; stop when no force is larger.")] = 0.02,
    oversample: Annotated[
        int, typer.Option(help="Make this many times as many, and keep those that represent them.")
    ] = 1,
    window: Annotated[
        float | None,
        typer.Option(
            help="eV above the lowest energy; leave out what is higher (0.26 eV is 6 kcal/mol). Needs --relax.",
            show_default=False,
        ),
    ] = None,
    unique: Annotated[float, typer.Option(help="Å; nearer ones are duplicates and left out. 0: keep all.")] = 0.125,
    attempts: Annotated[int, typer.Option(help="At each structure, at most, where checks refuse it.")] = 4,
    time_limit: Annotated[float, typer.Option(help="Seconds for each molecule.")] = 600.0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder (default: NAME-conformers), or a file ending in .extxyz, .sdf or .db.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted file of molecules.")] = False,
    overwrite: common.OverwriteOption = False,
    dtype: common.DtypeOption = "float32",
    device: common.DeviceOption = None,
    skin: common.SkinOption = 0.5,
) -> None:
    """Make conformers of a molecule, or of each line of a file of SMILES strings.

    Writes conformers.extxyz, conformers.png and conformers.html, a page to turn them with the mouse. Of a file of
    molecules: conformers.extxyz, conformers.csv, which says of each line what it gave, and conformers.json with the
    settings, for --resume.
    """
    from .. import simulate
    from ..errors import ConfigError, OutputError
    from ..providers.base import check_arguments

    many = os.path.isfile(molecules)
    if resume and not many:
        raise ConfigError("--resume goes on with a file of molecules; the conformers of one molecule are made at once.")
    if resume and overwrite:
        raise ConfigError("--resume goes on with earlier results, which --overwrite replaces: leave one of them out.")
    path = _target(molecules, out, many)
    for file in (path, *map(path.with_suffix, BESIDE_LINES if many else BESIDE_ONE)):
        if many and file.exists() and file.samefile(molecules):
            raise OutputError(f"{file} holds the molecules and would be replaced: choose another place with --out.")
        if not resume:
            simulate.see_free(file, overwrite=overwrite)
    settings = {
        "n": number,
        "seed": seed,
        "attempts": attempts,
        "oversample": oversample,
        "relax_steps": steps,
        "fmax": fmax,
        "window": window,
        "unique": unique or None,
    }
    check_arguments(**settings, time_limit=time_limit)
    if window is not None and not relax:
        raise ConfigError("--window needs energies: add --relax (with --steps 0, no relaxation).")
    _see_used(context)
    maker = _provider(provider, sampler_steps, dtype, device, fallback)
    calculator = common.calculator(model, [], dtype, device, skin) if relax else None

    make_folder(path.parent)
    options: dict[str, Any] = {**settings, "time_limit": time_limit, "relax": calculator, "rank": relax}
    if many:
        about = {"providers": [[each.name, each.version] for each in maker.makers], **settings}
        about["calculator"] = calculator.identity if calculator else None
        _run_file(Path(molecules), partial(maker.sample_many, **options), path, about, resume)
    else:
        _run_one(molecules, partial(maker.sample, **options), path, settings, calculator.name if calculator else None)


def _see_used(context: typer.Context) -> None:
    """Refuse options that would change nothing."""
    from ..errors import ConfigError

    if context.params["relax"]:
        return
    of_a_network = () if context.params["provider"] != "rdkit" else ("dtype", "device")
    for name in ("model", "steps", "fmax", "skin", *of_a_network):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name} is about the relaxation: add --relax.")


def _provider(name: str, sampler_steps: int | None, dtype: str, device: str | None, fallback: bool) -> Provider:
    from .. import ConformerProvider, RDKitProvider
    from ..errors import ConfigError

    if name != "rdkit":
        other = RDKitProvider() if fallback else None
        return ConformerProvider(name, device=device, dtype=dtype, steps=sampler_steps, fallback=other)  # type: ignore[arg-type]
    if sampler_steps is not None:
        raise ConfigError("--sampler-steps are those of a conformer model: name one with --provider.")
    if fallback:
        raise ConfigError("--fallback lets RDKit help a conformer model: name one with --provider.")
    return RDKitProvider()


def _target(molecules: str, out: Path | None, many: bool) -> Path:
    """The file of structures."""
    from ..errors import InputError, OutputError
    from ..providers.molecules import parse
    from ..providers.stores import FORMATS

    if not many and Path(molecules).suffix in LISTS:
        raise InputError(f"There is no file '{molecules}'.")
    name = Path(molecules).stem if many else parse(molecules).formula
    path = out or Path(f"{name}-conformers")
    if path.suffix not in FORMATS or path.is_dir():
        if path.suffix and out and not path.is_dir():
            raise OutputError(f"Conformers are written to {', '.join(FORMATS)}, not to '{path.suffix}' files.")
        path = path / "conformers.extxyz"
    return path


def _run_one(
    smiles: str, sample: Callable[..., Ensemble], path: Path, settings: dict[str, Any], model: str | None
) -> None:
    from ase import Atoms

    from ..errors import ProviderWarning
    from ..providers.pictures import ensemble_picture
    from ..providers.viewer import write_viewer

    begin, made = time.perf_counter(), list[Atoms]()
    with common.progress("rate") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", ProviderWarning)  # said below
        total = settings["n"] * settings["oversample"]
        task = bar.add_task("Relaxing" if model else "Embedding", total=total, rate="")

        def see(atoms: Atoms) -> None:
            made.append(atoms)
            bar.update(task, completed=len(made), rate=_rate(len(made), time.perf_counter() - begin))

        try:
            ensemble = sample(smiles, on_structure=see)
        except KeyboardInterrupt:
            _keep(made, path, ranked=model is not None)
            raise
    seconds = time.perf_counter() - begin
    _write(path, ensemble)
    title = f"{ensemble[0].get_chemical_formula()}: {len(ensemble)} conformers" + (f", {model}" if model else "")
    picture, page = path.with_suffix(".png"), path.with_suffix(".html")
    ensemble_picture(picture, ensemble, title=title)
    write_viewer(page, ensemble, title=title)
    _print_table(ensemble)
    if ensemble.remarks:
        common.errors.print(f"[yellow]{escape(ensemble.remarks)}[/yellow]", soft_wrap=True)
    lost = ", ".join(f"{reason}: {count}" for reason, count in ensemble.failures.items())
    common.summary(
        f"Conformers of {ensemble[0].get_chemical_formula()}",
        [
            ("provider", _makers(ensemble)),
            *([("model", model)] if model else []),
            *([("not relaxed to the end", f"{ensemble.unrelaxed} of {ensemble.made}")] if ensemble.unrelaxed else []),
            ("made", f"{len(ensemble)} of {settings['n']} in {seconds:.1f} s" + (f" ({lost})" if lost else "")),
            ("results", f"{path}, {picture.name}, {page.name}"),
        ],
    )


def _makers(ensemble: Ensemble) -> str:
    """Who made the structures; where they are several, how many each."""
    counts = Counter(f"{atoms.info['provider']} ({atoms.info['model_version']})" for atoms in ensemble)
    return "; ".join(f"{maker}: {count}" if len(counts) > 1 else maker for maker, count in counts.items())


def _keep(made: list[Atoms], path: Path, *, ranked: bool) -> None:
    """Write what there is when the user ends it, and say so."""
    if ranked:
        made.sort(key=lambda atoms: atoms.get_potential_energy())
    if made:
        _write(path, made)
    kept = f"{len(made)} conformers, of which none was left out, are in {path}" if made else "nothing was written"
    common.errors.print(f"Interrupted: {escape(kept)}.", soft_wrap=True)


def _write(path: Path, structures: Sequence[Atoms]) -> None:
    """Write structures, and remove pictures of earlier ones, which are not of these."""
    from ..providers.stores import write_structures

    for suffix in BESIDE_ONE:
        path.with_suffix(suffix).unlink(missing_ok=True)
    write_structures(path, structures)


def _run_file(
    source: Path, sample_many: Callable[..., Iterator], path: Path, settings: dict[str, Any], resume: bool
) -> None:
    from ..errors import InputError
    from ..providers.batch import run_lines
    from ..providers.smiles_files import read_lines

    lines = read_lines(source)
    begin, done, outcomes = time.perf_counter(), 0, []
    with common.progress("rate", "live") as bar:
        task = bar.add_task("Molecules", total=len(lines), rate="", live="")
        try:
            for outcome in run_lines(lines, sample_many, path, settings, resume=resume):
                outcomes.append(outcome)
                done += not outcome.earlier
                rate = _rate(done, time.perf_counter() - begin, "molecules")
                bar.update(task, completed=len(outcomes), rate=rate, live=escape(outcome.smiles[:30]))
        except KeyboardInterrupt:
            kept = f"finished molecules are in {path}; go on with the same command and --resume"
            common.errors.print(f"Interrupted: {escape(kept)}.", soft_wrap=True)
            raise
    failed = [outcome for outcome in outcomes if not outcome.structures]
    remarked = [outcome for outcome in outcomes if outcome.structures and outcome.is_remarkable]
    for told in (failed, remarked):
        _print_messages(told)
    common.summary(
        f"Conformers of {len(outcomes)} molecules",
        [
            ("conformers", str(sum(outcome.structures for outcome in outcomes))),
            ("without any", f"{len(failed)} molecules" if failed else "none"),
            *([("with remarks", f"{len(remarked)} molecules")] if remarked else []),
            ("time", f"{sum(outcome.seconds for outcome in outcomes):.1f} s"),
            ("results", f"{path}, {path.with_suffix('.csv').name}"),
        ],
    )
    if len(failed) == len(outcomes):
        raise InputError(f"No line of {source} gave a structure.")


def _print_messages(outcomes: Sequence[Outcome]) -> None:
    """What is to be said of lines; of many, the first."""
    for outcome in outcomes[:MOST_ROWS]:
        common.console.print(f"[yellow]line {outcome.line}[/yellow] {escape(outcome.message)}", soft_wrap=True)
    if len(outcomes) > MOST_ROWS:
        common.console.print(f"[dim]and {len(outcomes) - MOST_ROWS} more[/dim]")


def _print_table(ensemble: Ensemble) -> None:
    from ase import units

    from ..providers.refine import families

    ranked = "relative_energy" in ensemble[0].info
    table = Table(box=None, header_style="dim")
    for column in ("", "index", *(("meV", "kcal/mol", "weight") if ranked else ()), "family"):
        table.add_column(column, justify="right")
    for place, (atoms, family) in enumerate(zip(ensemble, families(ensemble, FAMILY), strict=True), start=1):
        if place > MOST_ROWS:
            break
        cells = [str(place), str(atoms.info["index"])]
        if ranked:
            energy, weight = atoms.info["relative_energy"], atoms.info["boltzmann_weight"]
            cells += [f"{1000 * energy:.1f}", f"{energy * units.mol / units.kcal:.2f}", f"{100 * weight:.1f} %"]
        table.add_row(*cells, str(family + 1) if family >= 0 else "")
    common.console.print(table)
    if len(ensemble) > MOST_ROWS:
        common.console.print(f"[dim]and {len(ensemble) - MOST_ROWS} more[/dim]")


def _rate(done: int, seconds: float, what: str = "conformers") -> str:
    per_second = done / max(seconds, 1e-9)
    return f"{per_second:.1f} {what}/s" if per_second >= 1 else f"{60 * per_second:.1f} {what}/min"
